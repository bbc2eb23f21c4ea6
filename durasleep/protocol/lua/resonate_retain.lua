-- Removes what has settled long enough ago, at most `limit` promises. What has to stay is looked at later.
-- Tasks of other partitions that have ended may follow, each with a promise that was kept for it.
-- Answers how many were looked at, and how many were removed; tasks of other partitions that may need one, each with the
-- promise; and what failed, each with what is wrong.
-- @include resonate/keys
local limit, now_ms = unpack(ARGV, 1, 2)
local LATER_MS = 86400000
-- @include resonate/clock
-- @include resonate/waiters
-- @include resonate/branches
-- @include text_of
local settled = own_prefix .. 'settled'
local removed, foreign = 0, {}

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
  store.load_tags(record)
  local branch = branches.of(record)
  if branch and branch ~= record.id then redis.call('SREM', branches.key(branch), record.id) end
  redis.call('UNLINK', store.key(record.id), waiters.key(record.id))
  redis.call('ZREM', settled, record.id)
  removed = removed + 1
end

-- Whether a task of another root may still begin again, and make this again. The caller has to ask for one of another
-- partition.
local function is_needed(record)
  for reader in string.gmatch(record[R.readers] or '', '[^%z]+') do
    local id = string.sub(reader, 2)
    if string.sub(reader, 1, 1) == 'x' then
      foreign[#foreign + 1] = { id, record.id }
      return true
    end
    local task = store.load(id)
    if task and store.is_pending(task) then return true end
  end
  return false
end

local function look(id)
  local record = store.load(id)
  if not record or store.is_pending(record) then return redis.call('ZREM', settled, id) end
  local has_unseen = redis.call('ZSCORE', own_prefix .. 'queue:durasleep://', id)
  if has_unseen or record[R.children] or is_needed(record) then return look_later(id, now + LATER_MS) end
  local root = retention.root_of(record)
  root = store.load(root == id and tags.root_of(id) or root)
  if root and root ~= record then
    if store.is_pending(root) or root[R.children] then return look_later(id, now + LATER_MS) end
    local due = tonumber(redis.call('ZSCORE', settled, root.id) or '')
    if due and due > now then return look_later(id, due) end
  end
  if remove_branch(record) then remove(record) end
end

-- A task of another partition has ended: what it needed is looked at soon.
local function forget(awaiter, id)
  local record = store.load(id)
  if not record or not record[R.readers] then return end
  local left = {}
  for reader in string.gmatch(record[R.readers], '[^%z]+') do
    if reader ~= 'x' .. awaiter then left[#left + 1] = reader .. '\0' end
  end
  redis.call('HSET', store.key(id), R.readers, table.concat(left))
  if not store.is_pending(record) then look_later(id, now) end
end

redis.call('ZREM', timers, '') -- it goes on while Redis is full
for i = 3, #ARGV, 2 do
  forget(ARGV[i], ARGV[i + 1])
end
local due = redis.call('ZRANGEBYSCORE', settled, '-inf', now_text, 'LIMIT', 0, limit)
local failures = {}
for _, id in ipairs(due) do
  local is_done, problem = pcall(look, id)
  if not is_done then
    look_later(id, now + LATER_MS)
    failures[#failures + 1] = { id, text_of(problem) }
  end
end
return { #due, removed, foreign, failures }
