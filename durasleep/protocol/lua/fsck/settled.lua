-- Whether a waiter of another partition has not heard of an ending yet.
local function is_untold(record)
  return #foreign_waiters(record, 1) > 0
end

local function check_settled(record)
  if is_untold(record) and not is_closing(record.id) and not redis.call('ZSCORE', timers, record.id .. '~tell') then
    return found('untold', record.id, 'has ended, but nobody tells it to another partition', function()
      set_timer(record.id .. '~tell', now)
    end)
  end
  if is_untold(record) then return end
  if redis.call('PTTL', record.key) ~= -1 or is_closing(record.id) then return end
  local keep_ms = time_to_keep(record)
  if not keep_ms or keep_ms == 0 then return end
  found('kept', record.id, 'has ended, but is kept for ever', function()
    keep_for(record, keep_ms)
  end)
end

-- Waiters that are listed, and do not wait any more: executions, which are removed when they stop waiting, and clients
-- that were killed while they waited. Of a set only some are checked.
local function check_waiters(record)
  local gone, clients = {}, {}
  if record.waiters == WORD.many then
    gone = some_gone(waiters_prefix .. record.id, SAMPLE_WHEN_FULL)
  else
    for waiter in string.gmatch(record.waiters or '', '[^\n]+') do
      if is_gone(waiter) then gone[#gone + 1] = waiter end
    end
  end
  for _, waiter in ipairs(gone) do
    if string.sub(waiter, 1, 1) == 'i' then clients[#clients + 1] = waiter end
    local owner = owner_of(string.match(waiter, '^p%d+ (.*)$') or '')
    if owner and not is_closing(owner) and redis.call('EXISTS', run_prefix .. owner) == 0 then
      found('waiter', record.id, 'lists the waiter ' .. owner .. ', which does not wait', function()
        strike(record.id, waiter)
      end)
    end
  end
  if #clients > 0 then
    found('client', record.id, 'lists ' .. #clients .. ' waiting clients that are gone', function()
      for _, waiter in ipairs(clients) do
        strike(record.id, waiter)
      end
    end)
  end
end
