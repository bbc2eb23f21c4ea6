-- How many executions have ended in some minutes since 1970: see shared/stats.lua, which counts them. It only reads.
-- Answers: of each minute that has counters its number, and their names and values in turn.
-- @include keys
-- @include near
-- @include int
local first, last = unpack(ARGV, 1, 2)

local found = {}
for minute = tonumber(first), tonumber(last) do
  local counters = redis.pcall('HGETALL', near(NEAR.stats .. int(minute)))
  if not counters.err and #counters > 0 then found[#found + 1] = { int(minute), counters } end
end
return found
