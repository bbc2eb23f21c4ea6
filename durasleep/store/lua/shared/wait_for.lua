-- @include load

-- One more waits for a pending promise, unless it does already. An inbox is only a hint, so that it may be
-- turned away; an execution that waits is not (see `check_op` in commit).
local function wait_for(record, waiter)
  local waiters = record.waiters or ''
  if string.find('\n' .. waiters, '\n' .. waiter .. '\n', 1, true) then return end
  if string.sub(waiter, 1, 1) == 'i' and count_waiters(record) >= LIMIT.waiters_max then return end
  record.waiters = waiters .. waiter .. '\n'
  put(record, F.waiters, record.waiters)
  save(record)
end

local opened = {}

-- An inbox exists as long as its reader shows itself; results go only to inboxes that exist.
local function open_inbox(inbox)
  if opened[inbox] then return end
  opened[inbox] = true
  local key = inbox_prefix .. inbox
  if redis.call('EXISTS', key) == 0 then redis.call('XADD', key, '*', 'o', '') end
  redis.call('PEXPIRE', key, LIMIT.inbox_ttl_ms)
end
