-- Removes what has settled long enough ago, at most `limit` promises. What has to stay is looked at later.
-- Answers how many were looked at, and how many were removed.
-- @include resonate/keys
local limit, now_ms = unpack(ARGV, 1, 2)
local LATER_MS = 86400000
-- @include resonate/clock
-- @include resonate/waiters
-- @include resonate/branches
local settled = own_prefix .. 'settled'
local removed = 0

local function look_later(id, due)
  redis.call('ZADD', settled, int(due), id)
end

-- The internal promises of its branch go with it; answers false if there are more.
local function remove_branch(record)
  local key = branches.key(record.id)
  local page = redis.call('SSCAN', key, record[R.cursor] or '0', 'COUNT', 100)
  for _, id in ipairs(page[2]) do
    local member = store.load(id)
    if not member or not store.is_by_itself(member) then
      redis.call('UNLINK', store.key(id), waiters.key(id))
      redis.call('SREM', key, id)
      removed = removed + 1
    end
  end
  if page[1] == '0' then return true end
  redis.call('HSET', store.key(record.id), R.cursor, page[1])
  return false
end

local function remove(record)
  local branch = branches.of(record)
  if branch and branch ~= record.id then redis.call('SREM', branches.key(branch), record.id) end
  redis.call('UNLINK', store.key(record.id), waiters.key(record.id))
  redis.call('ZREM', settled, record.id)
  removed = removed + 1
end

local function look(id)
  local record = store.load(id)
  if not record or store.is_pending(record) then return redis.call('ZREM', settled, id) end
  if redis.call('ZSCORE', own_prefix .. 'queue:durasleep://', id) then return look_later(id, now + LATER_MS) end
  store.load_whole(id)
  local root = store.load(tags.origin_of(tags.get(store.long_of(record, R.tags), 'o', id, record[R.target]), id))
  if record[R.children] then return look_later(id, now + LATER_MS) end
  if root and root ~= record then
    if store.is_pending(root) then return look_later(id, now + LATER_MS) end
    local due = tonumber(root[R.settled]) + LIMIT.retention_ms
    if due > now then return look_later(id, due) end
  end
  if remove_branch(record) then remove(record) end
end

redis.call('ZREM', timers, '') -- it goes on while Redis is full
local due = redis.call('ZRANGEBYSCORE', settled, '-inf', now_text, 'LIMIT', 0, limit)
for _, id in ipairs(due) do
  look(id)
end
return { #due, removed }
