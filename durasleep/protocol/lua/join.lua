-- A worker becomes a consumer of its queues. Their groups begin at 0: acknowledged entries are deleted, so all entries
-- in a stream are unfinished. The names of the queues follow.
-- @include keys
-- @include check_type
local consumer, group = unpack(ARGV, 1, 2)

local function has_group(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for i = 1, groups.err and 0 or #groups do
    if groups[i][2] == group then return true end
  end
  return false
end

for i = 3, #ARGV do
  check_type(queue_prefix .. ARGV[i], 'stream')
end
redis.call('ZREM', timers, '') -- a worker joins on a full Redis, too: it can finish the existing executions
for i = 3, #ARGV do
  local stream = queue_prefix .. ARGV[i]
  if not has_group(stream) then redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM') end
  redis.call('XGROUP', 'CREATECONSUMER', stream, group, consumer)
end
return 'joined'
