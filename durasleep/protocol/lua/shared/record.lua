-- @include int
-- @include in_chunks

-- A loaded promise is a table: its fields by name, and the changes to write. `save` drops fields before it sets others,
-- so a field that was put is not dropped in the same save; it writes `unseen` and `receives` only if they have changed.
-- A table that nobody needs is not made.

local function put(record, field, value)
  local sets = record.sets
  if not sets then
    -- With room for more: Lua counts a table again whenever it grows.
    record.sets = { field, value, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
    return
  end
  local n = #sets
  sets[n + 1], sets[n + 2] = field, value
end

local function drop(record, field)
  local gone = record.gone
  if gone then
    gone[#gone + 1] = field
  else
    record.gone = { field }
  end
end

-- A journal entry, which may be read again before it is saved.
local function put_entry(record, number, raw)
  put(record, number, raw)
  record.known[number] = raw
end

-- A journal entry as it is stored, false if there is none.
local function raw_of(record, number)
  local raw = record.known[number]
  if raw == nil then return redis.call('HGET', record.key, number) end
  return raw
end

local function save(record)
  local unseen = record.unseen
  if unseen ~= record.saved_unseen then
    record.saved_unseen = unseen
    if unseen == '' then
      drop(record, F.unseen)
    else
      put(record, F.unseen, unseen)
    end
  end
  if record.receives ~= record.saved_receives then
    record.saved_receives = record.receives
    put(record, F.receives, record.receives)
  end
  if record.gone then
    in_chunks(record.gone, 'HDEL', record.key)
    record.gone = nil
  end
  if record.sets then
    in_chunks(record.sets, 'HSET', record.key)
    record.sets = nil
  end
end

local function group_of(queue)
  return string.match(queue, '^[^/!]+')
end

-- The part before the last '~', and the number after it; nil for a root.
local function owner_of(id)
  if not string.find(id, '~', 1, true) then return nil end
  return string.match(id, '^(.*)~([^~]*)$')
end
