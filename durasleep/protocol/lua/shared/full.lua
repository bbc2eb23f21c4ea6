-- @include text_of
-- Whether Redis has no memory left. A full Redis refuses only the first write of a script, and only if that write may
-- grow. So a script may finish if its first write frees memory. Neither of these two changes anything.
local is_full = false
do
  local may_grow, refused = pcall(redis.call, 'ZADD', timers, 'XX', 0, '')
  if not may_grow then
    is_full = string.find(text_of(refused), 'OOM', 1, true) ~= nil
    redis.call('ZREM', timers, '')
    if not is_full then error(text_of(refused), 0) end
  end
end
