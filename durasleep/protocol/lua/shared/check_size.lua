-- Refuses what is too large to be one of our values before it travels: no reader must be taken down by it.
local function check_size(what, value)
  if #value > LIMIT.value_bytes_max then
    error('CORRUPT ' .. what .. ' has ' .. #value .. ' bytes, more than a value of ours', 0)
  end
end
