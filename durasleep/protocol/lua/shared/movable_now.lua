-- @include int
-- For tests: the server's time, moved by the milliseconds in `clock`, or standing still at the instant after `=`.
local clock = redis.call('TIME')
local says = redis.call('GET', string.match(timers, '^{[^}]*}:') .. 'clock') or '0'
local moved = tonumber(says)
if not moved then
  clock = { 0, 0 }
  moved = tonumber(string.sub(says, 2))
end
local micros = tonumber(clock[2]) + (moved % 1000) * 1000
clock[1] = int(tonumber(clock[1]) + math.floor(moved / 1000) + math.floor(micros / 1000000))
clock[2] = int(micros % 1000000)
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
local now_text = int(now)
