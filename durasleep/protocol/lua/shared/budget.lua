-- What this call may still do beside the items it was given: bytes it moves, and members of families and waiters it looks
-- after. Who does what may be much takes it from here; what there is no room for is left to another call.
local bytes_left, members_left = LIMIT.call_bytes_max, LIMIT.family_max
local ENDING_COST = 4 -- members: to end another promise, or to tell it, takes as many commands

local function spend(bytes, members)
  bytes_left = bytes_left - bytes
  members_left = members_left - members
end

local function is_spent()
  return bytes_left <= 0 or members_left <= 0
end
