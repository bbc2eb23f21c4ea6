-- @include kin
local RUN_FIELDS_MAX = 64 -- of a run that is closed at once

-- A short run, as names and values in turn; nil for one that is long or has large values.
local function read_run(key)
  if redis.call('HLEN', key) > RUN_FIELDS_MAX then return nil end
  local fields, cursor, bytes = {}, '0', 0
  repeat
    local part = redis.call('HSCAN', key, cursor, 'COUNT', SCAN_STEP)
    cursor = part[1]
    for i = 1, #part[2] do
      fields[#fields + 1] = part[2][i]
      bytes = bytes + #part[2][i]
    end
    if bytes > LIMIT.answer_bytes_max then return nil end
  until cursor == '0'
  spend(bytes, #fields / 2)
  return fields
end

-- How long the members of an earlier run that have ended are kept: as long as its root will be.
local function time_to_keep_run(id)
  return retention_of(redis.call('HGET', promise_prefix .. string.match(id, '^[^~]*'), F.retention))
end

-- Closes a part of a run that was moved to its own key; answers whether that was all of it.
local function close_run(id)
  local key = run_prefix .. id
  local incarnation, cursor = unpack(redis.call('HMGET', key, F.incarnation, F.cursor))
  if incarnation then
    cursor = close_from({ id = id, incarnation = incarnation }, key, cursor or '0', time_to_keep_run(id))
    if cursor ~= '0' then
      redis.call('HSET', key, F.cursor, cursor)
      return false
    end
  end
  redis.call('UNLINK', key)
  return true
end

-- A long run is moved whole to a key of its own, which is closed in parts, as large families are. The promise keeps its
-- other fields, all but the journal and the arguments. Entries of the old run do no harm meanwhile: no journal knows
-- them.
local function set_run_apart(record)
  local key = run_prefix .. record.id
  while redis.call('EXISTS', key) == 1 do -- an earlier run, not closed yet: it is closed here
    spend(-LIMIT.call_bytes_max, -LIMIT.family_max)
    close_run(record.id)
  end
  local names = {}
  for _, name in ipairs(redis.call('HKEYS', record.key)) do
    if
      not string.find(name, '^' .. F.checkpoint .. '?%d')
      and name ~= F.unseen
      and string.sub(name, 1, #F.args) ~= F.args
    then
      names[#names + 1] = name
    end
  end
  local values = redis.call('HMGET', record.key, unpack(names))
  redis.call('RENAME', record.key, key)
  for i = 1, #names do
    put(record, names[i], values[i])
  end
  record.saved_unseen = ''
  close_later(record.id .. '~run')
end
