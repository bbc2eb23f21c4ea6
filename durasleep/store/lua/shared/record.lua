-- @include text_of
local CHUNK_MAX = 1000 -- unpack fails near 8,000 values

-- A promise as a table, nil if there is none. Writes gather in `writes`, false for a field that goes, until `save`;
-- the entries in `numbers` are read along, see `raw_of`.
local function load(id, numbers)
  numbers = numbers or {}
  local key = promise_prefix .. id
  local ok, v = pcall(
    redis.call,
    'HMGET',
    key,
    F.state,
    F.kind,
    F.func,
    F.queue,
    F.birth,
    F.place,
    F.epoch,
    F.entry,
    F.due,
    F.deadline,
    F.order,
    F.unseen,
    F.family,
    F.waiters,
    F.call,
    F.deaths,
    F.lone_deaths,
    F.retention,
    unpack(numbers)
  )
  if not ok then
    local text = text_of(v)
    error(string.find(text, '^WRONGTYPE') and 'CORRUPT ' .. key .. ' is not a promise' or text, 0)
  end
  if not (v[1] or v[5]) then return nil end
  local epoch, order = tonumber(v[7] or '0'), tonumber(v[11] or '0')
  local kind = v[2] or KIND.execution
  if not (tonumber(v[5] or '') and epoch and order) or (kind == KIND.execution and not v[3]) then
    error('CORRUPT ' .. key .. ' is not a promise of ours', 0)
  end
  local known = {}
  for i, number in ipairs(numbers) do
    known[number] = v[18 + i]
  end
  return {
    id = id,
    key = key,
    writes = {},
    state = v[1] or STATE.pending,
    kind = kind,
    func = v[3] or '',
    queue = v[4] or v[3] and DEFAULT.queue or nil,
    birth = v[5],
    place = v[6],
    epoch = epoch,
    entry = v[8],
    due = v[9],
    deadline = v[10],
    order = order,
    unseen = v[12] or '',
    family = v[13],
    waiters = v[14],
    call = v[15],
    deaths = tonumber(v[16] or '0') or 0,
    lone_deaths = tonumber(v[17] or '0') or 0,
    retention = v[18],
    known = known,
  }
end

local function put(record, field, value)
  record.writes[field] = value
end

-- A journal entry, which may be read again before it is saved.
local function put_entry(record, number, raw)
  record.writes[number] = raw
  record.known[number] = raw
end

-- A journal entry as it is kept, false if there is none.
local function raw_of(record, number)
  local raw = record.known[number]
  if raw == nil then return redis.call('HGET', record.key, number) end
  return raw
end

local function drop(record, field)
  record.writes[field] = false
end

local function save(record)
  local sets, gone, set_count, gone_count = { 'HSET', record.key }, { 'HDEL', record.key }, 2, 2
  for field, value in pairs(record.writes) do
    if value == false then
      gone_count = gone_count + 1
      gone[gone_count] = field
    else
      sets[set_count + 1], sets[set_count + 2] = field, value
      set_count = set_count + 2
    end
    if set_count > CHUNK_MAX or gone_count > CHUNK_MAX then
      if set_count > 2 then redis.call(unpack(sets)) end
      if gone_count > 2 then redis.call(unpack(gone)) end
      sets, gone, set_count, gone_count = { 'HSET', record.key }, { 'HDEL', record.key }, 2, 2
    end
  end
  if gone_count > 2 then redis.call(unpack(gone)) end
  if set_count > 2 then redis.call(unpack(sets)) end
  record.writes = {}
end

-- How many wait for a promise.
local function count_waiters(record)
  local _, count = string.gsub(record.waiters or '', '\n', '')
  return count
end

local function group_of(queue)
  return string.match(queue, '^[^/]+')
end

-- What stands before the last '~', and the number after it; nil for a root.
local function owner_of(id)
  return string.match(id, '^(.*)~([^~]*)$')
end
