-- @include record

-- The one more that waits for a pending promise, unless it does already or too many do.
local function wait_for(record, waiter)
  local waiters = record.waiters or ''
  if string.find('\n' .. waiters, '\n' .. waiter .. '\n', 1, true) then return end
  local _, count = string.gsub(waiters, '\n', '')
  if count >= LIMIT.waiters_max then return end
  record.waiters = waiters .. waiter .. '\n'
  put(record, F.waiters, record.waiters)
  save(record)
end

-- An inbox exists as long as its reader shows itself; results go only to inboxes that exist.
local function open_inbox(inbox)
  local key = inbox_prefix .. inbox
  if redis.call('EXISTS', key) == 0 then redis.call('XADD', key, '*', 'o', '') end
  redis.call('PEXPIRE', key, LIMIT.inbox_ttl_ms)
end
