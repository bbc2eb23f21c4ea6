-- @include resonate/store
-- @include resonate/queue
-- @include resonate/waiters
-- @include resonate/tags
-- @include resonate/retention
-- The end of a promise, and whom it wakes.
local promises = {
  waiters_left = LIMIT.resonate_waiters_max, -- that this call may still tell; the others are left to a tick
}

-- A promise that is awaited has settled. `foreign` is its id if it is in another partition: a task that is about to wait
-- for it must know.
function promises.resume(awaiter, foreign)
  local record = store.load(awaiter)
  if not record or not record[R.task] or not store.is_pending(record) or tonumber(record[R.timeout]) <= now then
    return
  end
  if record[R.task] == 's' then
    queue.send(record)
    store.put(record, R.task, 'p', R.resumes, '1')
  elseif record[R.task] ~= 'f' then
    local heard = record[R.heard] or ''
    if foreign and (heard == WORD.many or string.find('\0' .. heard, '\0' .. foreign .. '\0', 1, true)) then return end
    store.put(record, R.resumes, int(tonumber(record[R.resumes] or '0') + 1))
    if foreign then
      heard = heard .. foreign .. '\0'
      store.put(record, R.heard, #heard <= LIMIT.resonate_heard_bytes_max and heard or WORD.many)
    end
  end
end

function promises.wake(record, what, who)
  if what == 'c' then return promises.resume(who) end
  if what == 'x' then return timer.arm('x' .. who .. '\0' .. record.id, now) end
  if queue.is_ours(who) then return queue.send_ours(record) end
  local address, preferred = queue.address_of(who)
  local inbox = own_prefix .. 'inbox:' .. address
  redis.call('XADD', inbox, 'MAXLEN', '~', LIMIT.inbox_entries_max, '*', 'i', record.id, 'p', preferred)
  redis.call('PEXPIRE', inbox, LIMIT.inbox_ttl_ms)
  timer.must_wake = true
end

-- One that cannot be told does not keep the others waiting. If it is a task, a tick says what is wrong.
function promises.notify(record, waiter)
  local what, who = string.sub(waiter, 1, 1), string.sub(waiter, 2)
  if what == '^' then
    what, who = 'c', tags.parent_of(record.id)
  end
  if not pcall(promises.wake, record, what, who) and what == 'c' then timer.arm('t' .. who, now) end
end

-- Tells some of the waiters of a set; a timer stands for the others.
function promises.notify_some(record)
  local key = waiters.key(record.id)
  local some = redis.call('SRANDMEMBER', key, math.max(promises.waiters_left, 1))
  for _, waiter in ipairs(some) do
    promises.notify(record, waiter)
  end
  promises.waiters_left = promises.waiters_left - #some
  waiters.told[key] = some
  if redis.call('SCARD', key) > #some then
    timer.arm('r' .. record.id, now)
  else
    timer.disarm('r' .. record.id)
    store.put(record, R.waiters, false)
  end
end

function promises.end_task(record)
  if not record[R.task] or record[R.task] == 'f' then return end
  store.put(record, R.task, 'f', R.pid, false, R.ttl, false, R.resumes, false, R.heard, false, R.awaits, false)
  timer.disarm('t' .. record.id)
  if queue.is_ours(record[R.target]) then return queue.send_ours(record) end -- its execution may have to be canceled
  queue.remove(record)
end

function promises.settle(record, state, value, at)
  store.put(record, R.state, state, R.settled, int(at))
  store.put_long(record, R.value, value)
  if store.is_by_itself(record) then
    timer.disarm('p' .. record.id)
    retention.keep(record)
    retention.discount_child(record)
  end
  promises.end_task(record)
  local field = record[R.waiters]
  if field == WORD.many then
    promises.notify_some(record)
  elseif field then
    store.put(record, R.waiters, false)
    for waiter in string.gmatch(field, '[^%z]+') do
      promises.notify(record, waiter)
    end
  end
end

-- The promise as it is now: past its deadline it has settled.
function promises.touched(record)
  if record and store.is_pending(record) and tonumber(record[R.timeout]) <= now then
    promises.settle(record, record[R.kind] == 'm' and STATE.resolved or STATE.timedout, '', tonumber(record[R.timeout]))
  end
  return record
end

function promises.touch(id)
  return promises.touched(store.load(id))
end

-- The same, for an answer that shows all of it.
function promises.touch_whole(id)
  return promises.touched(store.load_whole(id))
end
