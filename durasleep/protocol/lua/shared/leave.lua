-- @include record
-- @include timer
-- @include known
-- The gates of limits: a function that answers the table of gates.lua. A script that seldom needs it makes it late.
local gates
local CUT_MIN = 4 -- fewer are deleted one by one
local runs = {} -- queue -> first entry -> the pending entries from it on, in order and without gaps, if it was asked
local cleared = {} -- queue -> the entries that leave it, acknowledged at the end in one command

-- Takes an execution out of its place, whichever that is. The caller saves and puts it elsewhere.
local function leave(record)
  if record.place or record.kind then check_known(record) end
  if record.entry then
    local entries = cleared[record.queue]
    if not entries then
      entries = {}
      cleared[record.queue] = entries
    end
    entries[#entries + 1] = record.entry
    drop(record, F.entry)
    record.entry = nil
  end
  if record.place == PLACE.delayed then
    unset_timer(record.id .. '~start')
    unset_timer(record.id .. '~retry')
    drop(record, F.due)
    drop(record, F.reason)
    record.due = nil
  elseif record.place == PLACE.halted then
    if is_a(halted, 'zset') then redis.call('ZREM', halted, record.id) end
    drop(record, F.reason)
  elseif record.place == PLACE.parked then
    gates().unpark(record)
  end
end

-- An execution that does not run any more lets others run, if its limit says so. The caller saves.
local function free_slot(record, has_ended)
  if record.limit then gates().free(record, has_ended) end
end

-- For scripts that have asked for the pending entries of a queue.
local function note_run(queue, ids)
  if #ids < CUT_MIN then return end
  runs[queue] = runs[queue] or {}
  runs[queue][ids[1]] = ids
end

-- Cuts off those of `entries` that are the oldest of their stream, if there are enough of them; answers the rest. A
-- delivered entry stays pending until it leaves its stream, so there are no others between pending entries.
local function cut(stream, entries, runs_here)
  local oldest = #entries >= CUT_MIN and redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  local pending = oldest and runs_here[oldest[1]]
  if not pending then return entries end
  local leaving, last, rest = {}, nil, {}
  for i = 1, #entries do
    leaving[entries[i]] = true
  end
  for i = 1, #pending do
    if not leaving[pending[i]] then break end
    leaving[pending[i]], last = false, pending[i]
  end
  if not last then return entries end
  local ms, number = string.match(last, '^(%d+)%-(%d+)$')
  redis.call('XTRIM', stream, 'MINID', ms .. '-' .. int(tonumber(number) + 1))
  for i = 1, #entries do
    if leaving[entries[i]] then rest[#rest + 1] = entries[i] end
  end
  return rest
end

-- Once, at the end of a script. To delete one entry, Redis searches among a hundred in its node. If nothing runs long,
-- most entries are the oldest, and these go all at once.
local function clear_queues()
  for queue, entries in pairs(cleared) do
    local stream = queue_prefix .. queue
    if is_a(stream, 'stream') then
      in_chunks(entries, 'XACK', stream, group_of(queue))
      in_chunks(runs[queue] and cut(stream, entries, runs[queue]) or entries, 'XDEL', stream)
    end
  end
end
