-- @include resonate/store
-- @include resonate/retention
-- Who waits for a promise: c and an id for a task, ^ for the task of its parent, x and an id for a task of another
-- partition, l and an address for whoever listens. A few are a field of its hash, each followed by a NUL; many are the
-- set `waiters:<id>`.
local waiters = {}

function waiters.key(id)
  return own_prefix .. 'waiters:' .. id
end

-- Mostly the parent waits; its id is not repeated.
function waiters.short(record, waiter)
  return waiter == 'c' .. tags.parent_of(record.id) and '^' or waiter
end

-- Answers false if the promise has as many as it may have.
function waiters.add(record, waiter)
  if string.sub(waiter, 1, 1) ~= 'l' then retention.add_reader(record, waiter) end
  waiter = waiters.short(record, waiter)
  local field = record[R.waiters] or ''
  if field == WORD.many then
    local key = waiters.key(record.id)
    if redis.call('SCARD', key) >= LIMIT.promise_waiters_max then return redis.call('SISMEMBER', key, waiter) == 1 end
    redis.call('SADD', key, waiter)
    return true
  end
  if string.find('\0' .. field, '\0' .. waiter .. '\0', 1, true) then return true end
  if #field + #waiter < LIMIT.waiters_bytes_max then
    store.put(record, R.waiters, field .. waiter .. '\0')
    return true
  end
  local all = { waiter }
  for known in string.gmatch(field, '[^%z]+') do
    all[#all + 1] = known
  end
  in_chunks(all, 'SADD', waiters.key(record.id))
  store.put(record, R.waiters, WORD.many)
  return true
end
