-- Puts the entries of a dead worker, or those that a worker releases itself, back into their stream, with a new epoch.
-- `beat` is its last heartbeat that the other worker has seen ("" for a consumer that has none); if it has changed, the
-- worker is alive.
-- `release` is set when the worker itself asks: "some" for the entries that follow, "all" when it leaves.
-- Answers: "alive", "more" or "done"; how many entries were put back; the ids halted as poison.
-- @include keys
-- @include load
-- @include dispatch
-- @include holder
-- @include text_of
-- @include gates
-- @include at_end
local consumer, queue, beat, release, max_attempts, limit = unpack(ARGV, 1, 6)

redis.call('ZREM', timers, '') -- recovery goes on while Redis is full
local beat_now = redis.call('ZSCORE', workers, consumer)
if release == '' and (beat_now and int(tonumber(beat_now)) or '') ~= beat then return { 'alive', 0, {} } end

local group, stream = group_of(queue), queue_prefix .. queue

-- The execution that the entry belongs to; nil for an entry that nobody needs.
local function read_execution(entry)
  local row = redis.call('XRANGE', stream, entry, entry)[1]
  local fields = row and row[2] or {}
  local id, epoch
  for i = 1, #fields, 2 do
    if fields[i] == 'i' then
      id = fields[i + 1]
    elseif fields[i] == 'e' then
      epoch = tonumber(fields[i + 1])
    end
  end
  if row and not id then error('CORRUPT an entry that is not one of ours', 0) end
  local record = id and load(id)
  if record and (record.state ~= STATE.pending or record.entry ~= entry or record.epoch ~= epoch) then record = nil end
  return record
end

-- Two workers have died while they held a suspect. A worker runs one suspect at a time, so that the one that kills
-- workers can be found: a death counts as lonely only for the only suspect, or for an execution that was held alone.
local function count_death(record, alone)
  record.crash_count = record.crash_count + 1
  record.lone_crash_count = alone and record.lone_crash_count + 1 or 0
  put(record, F.crash_count, record.crash_count)
  put(record, F.lone_crash_count, record.lone_crash_count)
  return record.crash_count >= tonumber(max_attempts) and record.lone_crash_count >= 2
end

-- The entries to put back: those asked for that the worker holds, or the oldest of all it holds.
local entries, has_group = {}, true
if release == 'some' then
  for i = 7, #ARGV do
    if holder({ queue = queue, entry = ARGV[i] }) == consumer then entries[#entries + 1] = ARGV[i] end
  end
else
  local pending = redis.pcall('XPENDING', stream, group, '-', '+', limit, consumer)
  has_group = not pending.err
  for _, one in ipairs(has_group and pending or {}) do
    entries[#entries + 1] = one[1]
  end
end

local records, suspects = {}, 0
for _, entry in ipairs(entries) do
  local ok, record = pcall(read_execution, entry)
  if not ok then
    quarantine('queue:' .. queue .. ':' .. entry .. ': ' .. text_of(record))
  elseif record then
    records[entry] = record
    if record.crash_count >= 2 then suspects = suspects + 1 end
  end
end

local given, poison = 0, {}
for _, entry in ipairs(entries) do
  redis.call('XACK', stream, group, entry)
  redis.call('XDEL', stream, entry)
  local record = records[entry]
  if record then
    local is_poison = false
    if release ~= '' then
      drop(record, F.crash_count)
      drop(record, F.lone_crash_count)
    else
      is_poison = count_death(record, (suspects == 1 and record.crash_count >= 2) or #entries == 1)
    end
    if is_poison then
      drop(record, F.entry)
      halt(record, 'poison: ' .. record.crash_count .. ' workers in a row died while running it')
      poison[#poison + 1] = record.id
    else
      dispatch(record)
      given = given + 1
    end
    save(record)
  end
end

at_end()
if release ~= 'some' and #entries >= tonumber(limit) then return { 'more', given, poison } end
if release ~= 'some' then
  if has_group then redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer) end
  if queue == group then
    redis.call('ZREM', workers, consumer)
    redis.call('DEL', worker_prefix .. consumer, inbox_prefix .. consumer)
  elseif has_group and redis.call('XLEN', stream) == 0 and #redis.call('XINFO', 'CONSUMERS', stream, group) == 0 then
    redis.call('DEL', stream) -- its own stream: names come and go, and the next entry makes the stream again
  end
end
return { 'done', given, poison }
