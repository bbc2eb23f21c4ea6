-- @include resonate/store
-- @include resonate/tags
-- @include resonate/listed
-- Who waits for a promise: c and an id for a task, ^ for the task of its parent, x and an id for a task of another
-- partition, l and an address for whoever listens. A few are a field of its hash, each followed by a NUL; many are the
-- set `waiters:<id>`.
local waiters = { told = {} } -- those of a set that were told: they leave it when what they were told is written

function waiters.key(id)
  return own_prefix .. 'waiters:' .. id
end

-- Mostly the parent waits; its id is not repeated.
function waiters.short(record, waiter)
  return waiter == 'c' .. tags.parent_of(record.id) and '^' or waiter
end

-- Answers false if the promise has as many as it may have.
function waiters.add(record, waiter)
  waiter = waiters.short(record, waiter)
  local key = waiters.key(record.id)
  if record[R.waiters] == WORD.many and redis.call('SCARD', key) >= LIMIT.promise_waiters_max then
    return redis.call('SISMEMBER', key, waiter) == 1
  end
  listed.add(record, R.waiters, key, waiter, LIMIT.waiters_bytes_max)
  return true
end

function waiters.write()
  for key, some in pairs(waiters.told) do
    in_chunks(some, 'SREM', key)
  end
  waiters.told = {}
end
