-- @include budget
-- @include check_size

-- The value of a settled promise, as it is answered.
local function value_of(record)
  local value = redis.call('HGET', record.key, F.value) or ''
  check_size('the value of ' .. record.id, value)
  spend(#value, 0)
  return value
end
