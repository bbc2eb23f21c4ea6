-- Removes what has settled long enough ago, at most `limit` promises. What has to stay is looked at later.
-- Tasks of other partitions that have ended may follow, each with a promise that was kept for it.
-- Answers how many were looked at, and how many were removed; tasks of other partitions that may need one, each with the
-- promise; and what failed, each with what is wrong.
-- @include resonate/keys
local limit, now_ms = unpack(ARGV, 1, 2)
local LATER_MS = 86400000
local READERS_MAX = 50 -- of one promise that are looked at, if it has many
local ASKED_MAX = 10 -- of these in other partitions, for which the caller asks
-- @include resonate/clock
-- @include resonate/waiters
-- @include resonate/retention
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
  redis.call('UNLINK', store.key(record.id), waiters.key(record.id), retention.key(record.id))
  redis.call('ZREM', settled, record.id)
  removed = removed + 1
end

-- Tasks of other roots that have made a promise or have waited for it; of many, some.
local function readers_of(record)
  if record[R.readers] == WORD.many then return redis.call('SRANDMEMBER', retention.key(record.id), READERS_MAX) end
  local found = {}
  for reader in string.gmatch(record[R.readers] or '', '[^%z]+') do
    found[#found + 1] = reader
  end
  return found
end

-- When it must be looked at again, because a task of another root may still begin again and make this again; nil if
-- none may. The caller has to ask for those of other partitions. Of many, those that have ended are forgotten.
local function needed_until(record)
  local readers, ended, asked, is_needed = readers_of(record), {}, 0, false
  for _, reader in ipairs(readers) do
    local id = string.sub(reader, 2)
    if string.sub(reader, 1, 1) == 'x' then
      is_needed, asked = true, asked + 1
      if asked <= ASKED_MAX then foreign[#foreign + 1] = { id, record.id } end
    else
      local task = store.load(id) -- nobody knows what one needs that cannot be read
      if task and store.is_pending(task) then
        is_needed = true
      else
        ended[#ended + 1] = reader
      end
    end
  end
  if record[R.readers] == WORD.many then
    local key = retention.key(record.id)
    in_chunks(ended, 'SREM', key)
    if 2 * #ended >= #readers and redis.call('SCARD', key) > 0 then return now end -- there may be many more
  end
  return is_needed and now + LATER_MS or nil
end

local function look(id)
  local record = store.load(id)
  if not record or store.is_pending(record) then return redis.call('ZREM', settled, id) end
  local has_unseen = redis.call('ZSCORE', own_prefix .. 'queue:durasleep://', id)
  if has_unseen or record[R.children] then return look_later(id, now + LATER_MS) end
  local again_at = needed_until(record)
  if again_at then return look_later(id, again_at) end
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
  if record[R.readers] == WORD.many then
    redis.call('SREM', retention.key(id), 'x' .. awaiter)
  else
    local left = {}
    for _, reader in ipairs(readers_of(record)) do
      if reader ~= 'x' .. awaiter then left[#left + 1] = reader .. '\0' end
    end
    store.put(record, R.readers, left[1] and table.concat(left) or false)
  end
  if not store.is_pending(record) then look_later(id, now) end
end

redis.call('ZREM', timers, '') -- it goes on while Redis is full
for i = 3, #ARGV, 2 do
  forget(ARGV[i], ARGV[i + 1])
end
store.save()
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
