-- @include int
-- TIME is asked once: on Redis 6.2 and 7.0 it moves inside a script.
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local now_text = int(now)
