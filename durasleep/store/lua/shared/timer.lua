-- @include int
-- @include check_type
local earliest_made

-- Keep a timer, and remember whether it is now the earliest.
local function set_timer(member, due)
  if not earliest_made or due < earliest_made then
    local first = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')
    if not first[2] or due < tonumber(first[2]) then earliest_made = due end
  end
  redis.call('ZADD', timers, int(due), member)
end

-- Once, at the end of a script: the firers wait for an earlier instant now. Only a hint.
local function tell_firers()
  if earliest_made and is_a(wake, 'stream') then
    redis.call('XADD', wake, 'MAXLEN', '1', '*', 'd', int(earliest_made))
  end
end
