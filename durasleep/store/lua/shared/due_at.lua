-- @include now
-- The instant a due text means: '+5000' from now (rounded up: never early) or '=1893456000000'.
local function due_at(due)
  local kind, ms = string.match(due, '^([+=])(%d+)$')
  if not kind then error('INVALID due ' .. due, 0) end
  local instant = tonumber(ms)
  if kind == '+' then
    instant = instant + now
    if tonumber(clock[2]) % 1000 > 0 then instant = instant + 1 end
  end
  return math.min(instant, LIMIT.due_ms_max)
end
