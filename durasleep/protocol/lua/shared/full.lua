-- @include text_of
-- Whether Redis has no memory left. There it refuses a script only its first write, and only if that may grow: so what runs
-- may finish if the first one frees. Neither of these changes anything.
local is_full = false
do
  local may_grow, refused = pcall(redis.call, 'ZADD', timers, 'XX', 0, '')
  if not may_grow then
    is_full = string.find(text_of(refused), 'OOM', 1, true) ~= nil
    redis.call('ZREM', timers, '')
    if not is_full then error(text_of(refused), 0) end
  end
end
