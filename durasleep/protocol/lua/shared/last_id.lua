-- The last id of a stream, "0-0" for none: where a blocking read starts.
local function last_id(key)
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  return not last.err and last[1] and last[1][1] or '0-0'
end
