-- A consumer that stands for one lease, or for a worker that waits, is not needed any more; see lend.lua. One that still
-- holds an entry stays.
-- Answers "gone" or "kept".
-- @include keys
local consumer, queue = unpack(ARGV, 1, 2)

local group = string.match(queue, '^[^/!]+')
local streams = {}
for _, stream in ipairs(queue == group and { queue } or { queue, group }) do
  local pending = redis.pcall('XPENDING', queue_prefix .. stream, group, '-', '+', 1, consumer)
  if not pending.err then -- else the stream is gone
    if #pending > 0 then return 'kept' end
    streams[#streams + 1] = queue_prefix .. stream
  end
end
redis.call('ZREM', workers, consumer) -- first, for it goes on while Redis is full
for _, stream in ipairs(streams) do
  redis.call('XGROUP', 'DELCONSUMER', stream, group, consumer)
end
redis.call('DEL', worker_prefix .. consumer)
return 'gone'
