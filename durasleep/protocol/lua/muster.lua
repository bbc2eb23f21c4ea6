-- Notes that a worker shares the partitions of its namespace with the others of its group. Answers the members with the
-- times of their last musters, the latest first.
-- Members that may be struck follow, each with the time that its last muster must still have.
-- Its key belongs to no partition, so it declares this one only: it touches nothing else, and a slot that moves cannot
-- leave half of it done.
local members = unpack(KEYS)
-- @include check_type
-- @include int
local consumer = unpack(ARGV, 1, 1)
local clock = redis.call('TIME') -- also where a test moves the clock: it only has to change
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

check_type(members, 'zset')
redis.call('ZREM', members, '') -- a worker musters on a full Redis, too
for i = 2, #ARGV, 2 do
  local score = redis.call('ZSCORE', members, ARGV[i])
  if score and int(tonumber(score)) == ARGV[i + 1] then redis.call('ZREM', members, ARGV[i]) end
end
redis.call('ZADD', members, int(now), consumer)
redis.call('PEXPIRE', members, LIMIT.members_ttl_ms)
return redis.call('ZRANGE', members, 0, LIMIT.members_max - 1, 'REV', 'WITHSCORES')
