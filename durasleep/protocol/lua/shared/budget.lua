-- What this call may still do beside its items: bytes it moves, and members of families and waiters it visits. Work
-- that may be much takes its share from here; the rest is left to another call.
local bytes_left, members_left = LIMIT.call_bytes_max, LIMIT.family_max

local function spend(bytes, members)
  bytes_left = bytes_left - bytes
  members_left = members_left - members
end

local function is_spent()
  return bytes_left <= 0 or members_left <= 0
end
