-- Refuses a value that is too large to be ours before it is sent: it must not take down its reader.
local function check_size(what, value)
  if #value > LIMIT.value_bytes_max then
    error('CORRUPT ' .. what .. ' has ' .. #value .. ' bytes, more than a value of ours', 0)
  end
end
