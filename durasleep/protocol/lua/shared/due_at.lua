-- @include now
local last_due, last_instant
local begun_ms = tonumber(clock[2]) % 1000 > 0 and 1 or 0 -- of this millisecond: rounded up, never early

-- The instant of a due text: '+5000' from now or '=1893456000000'. Most texts are asked for again at once.
local function due_at(due)
  if due == last_due then return last_instant end
  local kind, ms = string.match(due, '^([+=])(%d+)$')
  if not kind then error('INVALID due ' .. due, 0) end
  local instant = tonumber(ms)
  if kind == '+' then instant = instant + now + begun_ms end
  last_due, last_instant = due, math.min(instant, LIMIT.due_ms_max)
  return last_instant
end
