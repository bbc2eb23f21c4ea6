-- @include int
-- @include in_chunks
-- Timers are members of one sorted set: p and an id for a deadline, t for a lease or for when a message is sent again, c
-- for a schedule, r for waiters that are still to be told, x for one in another partition: its id, a NUL, and the id of
-- what has settled.
local timer = { changes = {}, must_wake = false }

function timer.arm(member, due)
  timer.changes[member] = math.min(due, LIMIT.due_ms_max)
end

function timer.disarm(member)
  timer.changes[member] = false
end

function timer.write()
  local gone, made, earliest = {}, {}, nil
  for member, due in pairs(timer.changes) do
    if due then
      made[#made + 1], made[#made + 2] = int(due), member
      if not earliest or due < earliest then earliest = due end
    else
      gone[#gone + 1] = member
    end
  end
  in_chunks(gone, 'ZREM', timers)
  if earliest then
    local first = not timer.must_wake and redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')[2]
    if not first or earliest < tonumber(first) then timer.must_wake = true end
    in_chunks(made, 'ZADD', timers)
  end
  timer.changes = {}
end

-- To all who deliver: something is ready, or due earlier than they think.
function timer.hint()
  if timer.must_wake then redis.call('XADD', own_prefix .. 'wake', 'MAXLEN', '1', '*', 'd', '') end
end
