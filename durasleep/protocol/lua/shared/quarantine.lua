-- @include check_type
-- @include now

-- What needs a person is kept by name. Where even that is not possible, what is at hand goes on.
local function quarantine(name)
  if is_a(halted, 'zset') then redis.call('ZADD', halted, now_text, name) end
end
