-- @include check_type
-- @include now

-- Keeps the name of something that needs a person. If even that is not possible, the script goes on.
local function quarantine(name)
  if is_a(halted, 'zset') then redis.call('ZADD', halted, now_text, name) end
end
