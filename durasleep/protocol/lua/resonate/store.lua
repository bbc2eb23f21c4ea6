-- @include int
-- @include in_chunks
-- A promise and its task are one hash. It is loaded once, and its changes are written at the end of the script.
local store = {
  HEAD = {
    R.state,
    R.kind,
    R.timeout,
    R.settled,
    R.target,
    R.task,
    R.version,
    R.pid,
    R.ttl,
    R.resumes,
    R.waiters,
    R.children,
    R.counted,
    R.heard,
    R.awaits,
    R.readers,
  },
  GROUP = 'poll://any@',
  records = {},
  changed = {},
}

-- Most targets name a group: they are kept with @ instead of the beginning.
local function short_target(target)
  local size = #store.GROUP
  return string.sub(target, 1, size) == store.GROUP and '@' .. string.sub(target, size + 1) or target
end

local function restore_target(record)
  local kept = record[R.target]
  if kept and string.sub(kept, 1, 1) == '@' then record[R.target] = store.GROUP .. string.sub(kept, 2) end
end

function store.key(id)
  return own_prefix .. 'promise:' .. id
end

-- What all calls need of a promise; nil if there is none. Its tags and values are read by `load_whole`.
function store.load(id)
  local known = store.records[id]
  if known ~= nil then return known or nil end
  local values = redis.call('HMGET', store.key(id), unpack(store.HEAD))
  if not values[3] then
    store.records[id] = false
    return nil
  end
  local record = { id = id }
  for i = 1, #store.HEAD do
    record[store.HEAD[i]] = values[i] or nil
  end
  restore_target(record)
  record[R.state] = record[R.state] or STATE.pending
  store.records[id] = record
  return record
end

-- The same; nil, too, for one that cannot be read, where that stops nothing: fsck names it.
function store.find(id)
  local is_readable, record = pcall(store.load, id)
  return is_readable and record or nil
end

-- All of a promise.
function store.load_whole(id)
  local record = store.records[id]
  if record == false or (record and record.is_whole) then return record or nil end
  local raw = redis.call('HGETALL', store.key(id))
  if #raw == 0 then
    store.records[id] = record or false
    return record
  end
  record = record or { id = id }
  local dirty = record.changes or {}
  for i = 1, #raw, 2 do
    if dirty[raw[i]] == nil then record[raw[i]] = raw[i + 1] end
  end
  restore_target(record)
  record[R.state] = record[R.state] or STATE.pending
  record.is_whole = true
  store.records[id] = record
  return record
end

-- The tags of a promise, without its values.
function store.load_tags(record)
  local fields = { R.tags }
  for i = 1, LIMIT.args_parts_max - 1 do
    fields[i + 1] = R.tags .. i
  end
  local values = redis.call('HMGET', store.key(record.id), unpack(fields))
  for i, field in ipairs(fields) do
    record[field] = values[i] or nil
  end
end

-- Fields and values in turn; false removes a field.
function store.put(record, ...)
  local changes = record.changes
  if not changes then
    changes = {}
    record.changes = changes
    store.changed[#store.changed + 1] = record
  end
  local values = { ... }
  for i = 1, select('#', ...), 2 do
    local field, value = values[i], values[i + 1]
    if value or record[field] then
      record[field] = value or nil
      changes[field] = value
    end
  end
end

-- A long value in parts that Redis keeps in one piece with a small hash, see args.lua.
function store.put_long(record, field, text)
  local size = #text
  if size <= LIMIT.args_part_bytes or size > LIMIT.args_part_bytes * LIMIT.args_parts_max then
    return store.put(record, field, text ~= '' and text)
  end
  store.put(record, field, string.sub(text, 1, LIMIT.args_part_bytes))
  for i = 1, math.ceil(size / LIMIT.args_part_bytes) - 1 do
    store.put(record, field .. i, string.sub(text, LIMIT.args_part_bytes * i + 1, LIMIT.args_part_bytes * (i + 1)))
  end
end

function store.long_of(record, field)
  local text = record[field]
  if not text or not record[field .. 1] then return text end
  local parts = { text }
  for i = 1, LIMIT.args_parts_max - 1 do
    parts[i + 1] = record[field .. i]
  end
  return table.concat(parts)
end

function store.save()
  for _, record in ipairs(store.changed) do
    local sets, gone, count = {}, {}, 0
    for field, value in pairs(record.changes) do
      if value then
        sets[count + 1], sets[count + 2] = field, field == R.target and short_target(value) or value
        count = count + 2
      else
        gone[#gone + 1] = field
      end
    end
    in_chunks(gone, 'HDEL', store.key(record.id))
    in_chunks(sets, 'HSET', store.key(record.id))
    record.changes = nil
  end
  store.changed = {}
end

function store.is_pending(record)
  return record[R.state] == STATE.pending
end

-- Only these can be awaited: what nobody else can settle or hear of is the business of its own execution.
function store.is_external(record)
  return record[R.target] ~= nil or record[R.kind] == 'm' or record[R.kind] == 'x'
end

-- All others go with their branch.
function store.is_by_itself(record)
  return record[R.target] ~= nil or record[R.kind] ~= nil
end
