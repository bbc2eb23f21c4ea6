-- What a worker reads next: no more than `free` of all queues together. They follow in pairs, in the order they are
-- asked in: a queue, and how much of it at most.
-- Answers: queue and its entries, as XREADGROUP has them, in turn.
-- @include keys
local consumer, group, free = unpack(ARGV, 1, 3)

local left, answer = tonumber(free), {}
for i = 4, #ARGV, 2 do
  local count = math.min(left, tonumber(ARGV[i + 1]))
  if count > 0 then
    local stream = queue_prefix .. ARGV[i]
    local found = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
    local rows = found and found[1] and (found[1][2] or found[2]) -- fakeredis answers them flat
    if rows then
      left = left - #rows
      answer[#answer + 1], answer[#answer + 2] = ARGV[i], rows
    end
  end
end
return answer
