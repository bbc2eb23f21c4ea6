-- Takes entries from several streams, in the order given, for one consumer: at most `free` of all of them.
-- Queues and the most that may be taken of each follow in turn.
-- Answers: for each queue of which something was taken its place among these, from 0, and the entries.
-- @include keys
local consumer, group, free = unpack(ARGV, 1, 3)

redis.call('ZREM', timers, '') -- a worker takes work on a full Redis, too: what exists may end
local left, taken = tonumber(free), {}
for i = 4, #ARGV, 2 do
  local count = math.min(left, tonumber(ARGV[i + 1]))
  if count > 0 then
    local stream = queue_prefix .. ARGV[i]
    local found = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count, 'STREAMS', stream, '>')
    -- fakeredis answers the name and the entries, Redis a list of such pairs
    local rows = found and (type(found[1]) == 'table' and found[1][2] or found[2])
    if rows and #rows > 0 then
      left = left - #rows
      taken[#taken + 1] = { (i - 4) / 2, rows }
    end
  end
end
return taken
