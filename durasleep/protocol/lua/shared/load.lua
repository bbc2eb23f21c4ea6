-- @include record
-- @include text_of

-- The record of a promise from the values of `HEAD`, nil if there is none. `known` are journal entries by number, see
-- `raw_of`.
local function record_of(id, key, v, known)
  if not (v[1] or v[5]) then return nil end
  local epoch, order = tonumber(v[7] or '0'), tonumber(v[11] or '0')
  local kind = v[2] or KIND.execution
  if not (tonumber(v[5] or '') and epoch and order) or (kind == KIND.execution and not v[3]) then
    error('CORRUPT ' .. key .. ' is not a promise of ours', 0)
  end
  return {
    id = id,
    key = key,
    known = known,
    state = v[1] or STATE.pending,
    kind = kind,
    func = v[3] or '',
    queue = v[4] or v[3] and DEFAULT.queue or nil,
    incarnation = v[5],
    place = v[6],
    epoch = epoch,
    entry = v[8],
    due = v[9],
    deadline = v[10],
    order = order,
    unseen = v[12] or '',
    saved_unseen = v[12] or '',
    family = v[13],
    waiters = v[14],
    idempotency_key = v[15],
    crash_count = tonumber(v[16] or '0') or 0,
    lone_crash_count = tonumber(v[17] or '0') or 0,
    retention = v[18],
    created = v[19] or nil,
    limit = v[20],
    extras = v[21] or nil,
  }
end

local HEAD = {
  F.state,
  F.kind,
  F.func,
  F.queue,
  F.incarnation,
  F.place,
  F.epoch,
  F.entry,
  F.due,
  F.deadline,
  F.order,
  F.unseen,
  F.family,
  F.waiters,
  F.idempotency_key,
  F.crash_count,
  F.lone_crash_count,
  F.retention,
  F.created,
  F.limit,
  F.extras,
}

-- Raises the error of a key from which a promise cannot be read. It asks once more for the text: redis.pcall does not
-- have it on every server.
local function raise_unreadable(key)
  local ok, problem = pcall(redis.call, 'HGET', key, F.state)
  local text = ok and 'it was not readable before' or text_of(problem)
  error(string.find(text, 'WRONGTYPE', 1, true) and 'CORRUPT ' .. key .. ' is not a promise' or text, 0)
end

-- A promise as a record, nil if there is none; the entries in `numbers` are read along.
local function load(id, numbers)
  local key, words, known = promise_prefix .. id, { unpack(HEAD) }, {}
  for i = 1, numbers and #numbers or 0 do
    words[#HEAD + i] = numbers[i]
  end
  local v = redis.pcall('HMGET', key, unpack(words))
  if v.err then raise_unreadable(key) end
  for i = #HEAD + 1, #words do
    known[words[i]] = v[i]
  end
  return record_of(id, key, v, known)
end
