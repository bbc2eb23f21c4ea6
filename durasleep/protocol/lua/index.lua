-- Which labels have an index, and what is in it.
-- Actions: "add" and "drop" a label; "fill" it with the promise `what`; "tidy" it from the member `what` on, at most
-- `count` members: those of what is gone, or began anew, are removed.
-- Answers per item: "kept", "same" or "filled"; of "tidy" where to go on, "" at the end, how many were looked at, and how
-- many were removed.
-- @include keys
-- @include each_item
-- @include load
-- @include index
-- @include check_type
-- @include in_chunks
local actions = {}

local function indexed_labels()
  check_type(near(NEAR.functions), 'hash')
  return redis.call('HGET', near(NEAR.functions), NEAR.indexed) or ''
end

function actions.add(label)
  local labels = indexed_labels()
  if string.find(' ' .. labels, ' ' .. label .. ' ', 1, true) then return 'same' end
  check_type(near(NEAR.index .. label), 'zset')
  redis.call('HSET', near(NEAR.functions), NEAR.indexed, labels .. label .. ' ')
  return 'kept'
end

function actions.drop(label)
  local labels = indexed_labels()
  local first, last = string.find(' ' .. labels, ' ' .. label .. ' ', 1, true)
  if not first then return 'same' end
  labels = string.sub(labels, 1, first - 1) .. string.sub(labels, last)
  if labels == '' then
    redis.call('HDEL', near(NEAR.functions), NEAR.indexed)
  else
    redis.call('HSET', near(NEAR.functions), NEAR.indexed, labels)
  end
  redis.call('UNLINK', near(NEAR.index .. label))
  return 'kept'
end

function actions.fill(label, id)
  local record = load(id)
  if record and record.kind == KIND.execution then
    local labels = redis.call('HGET', record.key, F.labels)
    add_to_index(label .. ' ', id, record.func, labels, record.created or record.incarnation)
  end
  return 'filled'
end

function actions.tidy(label, after, count)
  local key, gone = near(NEAR.index .. label), {}
  local from = after == '' and '-' or '(' .. after
  local members = redis.call('ZRANGE', key, from, '+', 'BYLEX', 'LIMIT', 0, tonumber(count))
  for _, member in ipairs(members) do
    local created, id = string.match(member, '\t(%d+)\t(.*)$')
    local found = redis.pcall('HMGET', promise_prefix .. (id or ''), F.created, F.incarnation)
    local is_there = not found.err and (found[1] or found[2])
    if not (is_there and tonumber(is_there) == tonumber(created)) then gone[#gone + 1] = member end
  end
  in_chunks(gone, 'ZREM', key)
  return { #members == tonumber(count) and members[#members] or '', #members, #gone }
end

local function change(at)
  local action, label, what, count = unpack(ARGV, at + 1, at + 4)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](label, what, count)
end

return each_item(1, change)
