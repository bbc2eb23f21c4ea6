-- @include load
-- @include entry
-- @include check_type
local SAMPLE = 2 -- members of a set that are checked for each new one: so most of a set is always alive
local SAMPLE_WHEN_FULL = 64

-- Whether the waiter is gone: an inbox whose reader has left, or an execution that has ended, has begun again, or has
-- canceled the call.
local function is_gone(waiter)
  local kind, who = string.sub(waiter, 1, 1), string.sub(waiter, 2)
  if kind == 'i' then return redis.call('EXISTS', inbox_prefix .. who) == 0 end
  if kind ~= 'p' then return false end -- a newer version knows
  local incarnation, promise = string.match(who, '^(%d+) (.*)$')
  local owner_id, number = owner_of(promise or '')
  if not owner_id then return true end
  local found = redis.pcall('HMGET', promise_prefix .. owner_id, F.state, F.incarnation, number)
  if found.err then return false end -- it is for a person to look at
  local entry = read_entry(found[3] or nil)
  return found[1] or found[2] ~= incarnation or not entry or entry.state ~= STATE.pending
end

-- The lines of a field whose waiters are still there.
local function living(waiters)
  local lines = {}
  for line in string.gmatch(waiters, '[^\n]+') do
    if not is_gone(line) then lines[#lines + 1] = line .. '\n' end
  end
  return table.concat(lines)
end

local function is_waiting(record, waiter)
  local waiters = record.waiters or ''
  if waiters == WORD.many then return redis.call('SISMEMBER', waiters_prefix .. record.id, waiter) == 1 end
  return string.find('\n' .. waiters, '\n' .. waiter .. '\n', 1, true) ~= nil
end

-- Some members of a set that are gone.
local function some_gone(key, count)
  local gone = {}
  for _, waiter in ipairs(redis.call('SRANDMEMBER', key, count)) do
    if is_gone(waiter) then gone[#gone + 1] = waiter end
  end
  return gone
end

-- Whether a promise has so many waiters that there is no room for another one.
local function has_no_room(record)
  if record.waiters ~= WORD.many then return false end
  local key = waiters_prefix .. record.id
  check_type(key, 'set')
  return redis.call('SCARD', key) >= LIMIT.promise_waiters_max and #some_gone(key, SAMPLE_WHEN_FULL) == 0
end

local function put_waiters(record, waiters)
  record.waiters = waiters
  put(record, F.waiters, waiters)
  save(record)
end

local function add_to_set(record, waiter)
  local key = waiters_prefix .. record.id
  local gone = some_gone(key, SAMPLE)
  redis.call('SADD', key, waiter) -- first, so that a full Redis refuses it: after SREM it would pass
  if #gone > 0 then redis.call('SREM', key, unpack(gone)) end
end

-- All lines of a field become members of a set.
local function make_set(record, waiters)
  local lines = {}
  for line in string.gmatch(waiters, '[^\n]+') do
    lines[#lines + 1] = line
  end
  in_chunks(lines, 'SADD', waiters_prefix .. record.id)
  put_waiters(record, WORD.many)
end

-- Adds a waiter to a pending promise, unless it waits already. An inbox is only a hint, so it may be refused; an
-- execution that waits is not (see `checks.child` in commit). The waiter must be written before: see `is_gone`.
local function wait_for(record, waiter)
  if is_waiting(record, waiter) or (string.sub(waiter, 1, 1) == 'i' and has_no_room(record)) then return end
  local waiters = record.waiters or ''
  local room = LIMIT.waiters_bytes_max - #waiter - 1
  if #waiters > room and #waiters <= LIMIT.waiters_bytes_max then waiters = living(waiters) end
  if waiters ~= WORD.many and (#waiters <= room or not is_a(waiters_prefix .. record.id, 'set')) then
    return put_waiters(record, waiters .. waiter .. '\n')
  end
  if waiters ~= WORD.many then make_set(record, waiters) end
  add_to_set(record, waiter)
end

-- One does not wait any more. Answers whether it did.
local function strike(id, waiter)
  local key, set = promise_prefix .. id, waiters_prefix .. id
  local waiters = is_a(key, 'hash') and redis.call('HGET', key, F.waiters)
  if waiters == WORD.many then
    return is_a(set, 'set') and redis.call('SREM', set, waiter) == 1
  elseif waiters then
    local first, last = string.find('\n' .. waiters, '\n' .. waiter .. '\n', 1, true)
    if not first then return false end
    waiters = string.sub(waiters, 1, first - 1) .. string.sub(waiters, last)
    if waiters == '' then
      redis.call('HDEL', key, F.waiters)
    else
      redis.call('HSET', key, F.waiters, waiters)
    end
    return true
  end
  return false
end

local opened = {}

-- An inbox exists as long as its reader is active; results go only to inboxes that exist.
local function open_inbox(inbox)
  if opened[inbox] then return end
  opened[inbox] = true
  local key = inbox_prefix .. inbox
  if redis.call('EXISTS', key) == 0 then redis.call('XADD', key, '*', 'o', '') end
  redis.call('PEXPIRE', key, LIMIT.inbox_ttl_ms)
end
