-- @include load
-- @include gates
-- @include settle_entry
-- @include finish
-- @include at_end
-- @include text_of
-- @include wait_for
-- @include extras
-- The effects of an ending on others: on its waiters, on the execution that asked for it, and on its family, which is
-- everything it has asked for itself. How a family is closed:
--
-- A promise that ends is added to `families`, unless nothing is left to close. At the end of the script each of these
-- is closed: the pending members of its journal are canceled, which adds them to `families`, too. So a whole tree is
-- closed without recursion.
--
-- The retention of the root says how long a family is kept. As long as the root is pending, no member expires, because
-- the root may be replayed. When the root has ended, all of the family expires together.
--
-- A script may do only so much (see budget.lua). A family without room is named in `closing`, and the firer goes on
-- with it, part by part. Until that is done, its promise does not expire: the next part must find it.
local SCAN_STEP = 4 -- of a family looked at in one go: each may have a value of a megabyte

-- Left for the firer: more than one script may do.
local function close_later(id)
  if not is_a(closing, 'zset') then return end
  redis.call('ZADD', closing, now_text, id)
  earliest_made = now
end

-- A family that only a newer version can close waits behind all others, and is tried again when nothing else is left.
local function close_newer_later(id)
  if is_a(closing, 'zset') then redis.call('ZADD', closing, int(LIMIT.closing_newer + now), id) end
end

-- A family that cannot be closed is quarantined by name, or left for a newer version.
local function leave_open(id, problem)
  if is_newer(problem) then return close_later(id) end
  quarantine('closing:' .. id .. ': ' .. text_of(problem))
end

-- The entry `number` of the execution that asked for a child settles with it, if it is still the same incarnation.
local function settle_for(owner_id, number, incarnation, state, payload)
  local ok, owner = pcall(load, owner_id, { number })
  if not ok then return quarantine('promise:' .. owner_id .. ': ' .. text_of(owner)) end
  if not owner or owner.state ~= STATE.pending or owner.incarnation ~= incarnation then return end
  local entry = read_entry(raw_of(owner, number))
  if not entry or entry.state ~= STATE.pending then return end
  if not ENTRIES[entry.kind] then return close_newer_later(owner_id .. '~' .. number) end
  if entry.kind == KIND.child then settle_entry(owner, number, entry, state, payload) end
end

-- A promise that waits for another one, as incarnation and id.
local function settle_waiter(who, state, payload)
  local incarnation, promise = string.match(who, '^(%d+) (.*)$')
  local owner_id, number = owner_of(promise or '')
  if owner_id then settle_for(owner_id, number, incarnation, state, payload) end
end

-- The execution that a schedule has started has ended: if another one waits for that, the schedule is due.
local function end_scheduled(name, id)
  local key = schedule_prefix .. name
  if not is_a(key, 'hash') then return end
  local running, waiting, paused, revision =
    unpack(redis.call('HMGET', key, S.running, S.waiting, S.paused, S.revision))
  if running ~= id then return end
  redis.call('HDEL', key, S.running)
  redis.call('HSET', key, S.revision, int((tonumber(revision or '') or 0) + 1))
  if waiting and not paused and is_a(schedules, 'zset') then set_schedule_timer(name, now) end
end

local function has_waiter(key, pattern)
  local cursor = '0'
  repeat
    local page = redis.call('SSCAN', key, cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = page[1]
    if #page[2] > 0 then return true end
  until cursor == '0'
  return false
end

-- Notifies the waiters in a set, as many as there is room for; answers as `notify_waiters`. Those of other partitions,
-- and those that only a newer version knows, stay in it: they must not use up the room again and again.
local function notify_many(record, state, payload)
  local key, cursor = waiters_prefix .. record.id, '0'
  if not is_a(key, 'set') then return '', '' end
  repeat
    local page = redis.call('SSCAN', key, cursor, 'MATCH', '[ips]?*', 'COUNT', 1000)
    cursor = page[1]
    for _, waiter in ipairs(page[2]) do
      if is_spent() then return WORD.many, '' end
      local is_there = redis.call('SREM', key, waiter) == 1 -- a scan may show it twice
      if is_there then notify_waiter(record, string.sub(waiter, 1, 1), string.sub(waiter, 2), state, payload) end
    end
  until cursor == '0'
  return has_waiter(key, '[^x]*') and WORD.many or '', has_waiter(key, 'x*') and WORD.many or ''
end

local function notify_owner(record, state, payload)
  local owner_id, number = owner_of(record.id)
  settle_for(owner_id, number, record.incarnation, state, payload)
end

-- Whether each journal up to the root has an entry for it: those of an old run are gone (continue_as_new).
local function is_remembered(id)
  local owner_id, number = owner_of(id)
  while owner_id do
    if redis.call('HEXISTS', promise_prefix .. owner_id, number) == 0 then return false end
    owner_id, number = owner_of(owner_id)
  end
  return true
end

-- Whether the execution that asked for a child has ended, is gone, or has begun again.
local function is_orphan(record)
  local owner_id, number = owner_of(record.id)
  if not owner_id then return false end
  local state, incarnation, entry =
    unpack(redis.call('HMGET', promise_prefix .. owner_id, F.state, F.incarnation, number))
  return state or incarnation ~= record.incarnation or not entry
end

-- How long the members below a root are kept. A member of an old run (continue_as_new) does not wait for the root to
-- end.
local function time_to_keep_below(root, record)
  local key = promise_prefix .. root
  local state, incarnation, retention = unpack(redis.call('HMGET', key, F.state, F.incarnation, F.retention))
  if incarnation ~= record.incarnation then return 1 end -- its own root is gone
  if state then
    local left = redis.call('PTTL', key)
    return left >= 0 and math.max(left, 1) or retention_of(retention)
  end
  -- Mostly its owner is pending, and that is enough: closing a pending owner also closes its members.
  local may_be_replayed = not is_orphan(record) or is_remembered(record.id)
  return may_be_replayed and 0 or retention_of(retention)
end

-- How long a settled promise is kept, in ms: as long as its root. 0: for ever, or as long as the root is pending; 1: no
-- longer. nil: there is another promise under this id now.
local function time_to_keep(record)
  local root = string.match(record.id, '^[^~]*')
  local is_root = root == record.id
  if is_root and record.ended_now then return retention_of(record.retention) end -- as loaded: it is not read again
  local state, incarnation, retention = unpack(redis.call('HMGET', record.key, F.state, F.incarnation, F.retention))
  if not state or incarnation ~= record.incarnation then return nil end
  if is_root then return retention_of(retention) end
  return time_to_keep_below(root, record)
end

-- One member of the journal of an ended promise: a pending one ends with it, a kept one expires with it. A member that
-- has ended before is closed: as long as the root is pending (`keep_ms` is 0) nothing is left to do for it.
local function close_member(record, number, raw, keep_ms)
  local entry = read_entry(raw)
  if not entry then return end
  local is_pending = entry.state == STATE.pending
  if is_pending and entry.due ~= '' then unset_timer(record.id .. '~' .. number) end
  if is_pending and not ENTRIES[entry.kind] then return close_later(record.id .. '~' .. number) end -- if it is a hash
  if is_foreign(raw, entry) then return unset_timer(record.id .. '~' .. number .. '~ask') end
  if entry.kind ~= KIND.child or not (is_pending or keep_ms > 0) then return end
  if entry.child_id ~= '' then
    if is_pending then strike(entry.child_id, 'p' .. record.incarnation .. ' ' .. record.id .. '~' .. number) end
    return
  end
  local child = load(record.id .. '~' .. number)
  if not child or child.incarnation ~= record.incarnation then return end
  child.keep_ms = keep_ms -- it need not look for its root
  if child.state == STATE.pending then
    spend(0, LIMIT.ending_cost)
    finish(child, STATE.canceled, '')
  elseif child.family then
    families[#families + 1] = child
  else
    keep_for(child, keep_ms)
  end
end

-- A broken member never keeps its family open.
local function close_members(record, fields, keep_ms)
  for i = 1, #fields, 2 do
    if string.find(fields[i], '^%d') then
      local ok, problem = pcall(close_member, record, fields[i], fields[i + 1], keep_ms)
      if not ok then leave_open(record.id .. '~' .. fields[i], problem) end
    end
    spend(#fields[i + 1], 1)
  end
end

-- The members of the family in `key` from a cursor on, as many as there is room for; answers the next cursor, "0" at
-- the end.
local function close_from(record, key, cursor, keep_ms)
  repeat
    local part = redis.call('HSCAN', key, cursor, 'COUNT', SCAN_STEP)
    cursor = part[1]
    close_members(record, part[2], keep_ms)
  until cursor == '0' or is_spent()
  return cursor
end

-- Closes all of one family if there is room, else none of it yet. Until all is closed, its record is kept: the next
-- part must find it.
local function close_family(record)
  local keep_ms = record.keep_ms or time_to_keep(record)
  if not keep_ms then return end
  if record.is_quiet then
    spend(0, 1)
    return keep_for(record, keep_ms)
  end
  local is_large = is_spent() or redis.call('HLEN', record.key) > members_left
  if not (is_large or (record.waiters or '') ~= '') then
    local cursor = close_from(record, record.key, '0', keep_ms)
    if cursor == '0' and record.is_untold then return end
    if cursor == '0' then return keep_for(record, keep_ms) end
  end
  -- From its beginning, even if it was being closed: members closed while the root was pending have no expiry yet.
  redis.call('HDEL', record.key, F.cursor)
  close_later(record.id)
end

-- Closes the families of promises that have ended in this script, as many as there is room for; the rest waits in
-- `closing`.
local function close_families()
  while #families > 0 do
    local record = table.remove(families)
    local ok, problem = pcall(close_family, record)
    if not ok then leave_open(record.id, problem) end
  end
end

local kinship = {
  finish_extras = extras.finish,
  keep_extras = extras.keep,
  settle_waiter = settle_waiter,
  end_scheduled = end_scheduled,
  notify_many = notify_many,
  notify_owner = notify_owner,
  close_families = close_families,
  is_orphan = is_orphan,
}

function kin()
  return kinship
end
