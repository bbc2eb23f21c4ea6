-- @include settle_entry
local families = {}

-- The owner of a child hears of its ending, if it is still the one that asked for it.
local function tell_owner(owner_id, number, birth, state, payload)
  local owner = load(owner_id)
  if not owner or owner.state ~= STATE.pending or owner.birth ~= birth then return end
  local entry = read_entry(redis.call('HGET', owner.key, number))
  if not entry or entry.state ~= STATE.pending or entry.kind ~= KIND.child then return end
  settle_entry(owner, number, entry, state, payload)
end

-- An entry for each inbox that waits; a waiter that is a promise settles with it.
local function tell_waiters(record, state, payload)
  if record.waiters then
    for line in string.gmatch(record.waiters, '[^\n]+') do
      local kind, rest = string.sub(line, 1, 1), string.sub(line, 2)
      if kind == 'i' then
        local told = { 'i', record.id, 'b', record.birth, 's', state }
        if #payload <= LIMIT.inbox_value_bytes_max then
          told[7], told[8] = 'v', payload
        end
        redis.call('XADD', inbox_prefix .. rest, 'NOMKSTREAM', 'MAXLEN', '~', LIMIT.inbox_entries_max, '*', unpack(told))
      else
        local birth, promise = string.match(rest, '^(%d+) (.*)$')
        local owner_id, number = owner_of(promise)
        tell_owner(owner_id, number, birth, state, payload)
      end
    end
  end
  local owner_id, number = owner_of(record.id)
  if owner_id then tell_owner(owner_id, number, record.birth, state, payload) end
end

-- Ends a pending promise: out of its place, settled, those who wait told, its family to be closed.
local function finish(record, state, payload)
  leave(record)
  if record.deadline then redis.call('ZREM', timers, record.id .. '~timeout') end
  record.state, record.place = state, nil
  put(record, F.state, state)
  put(record, F.settled, int(now))
  put(record, F.value, payload)
  for _, field in ipairs({ F.place, F.unseen, F.reason, F.waiters, F.deaths, F.lone_deaths }) do drop(record, field) end
  save(record)
  tell_waiters(record, state, payload)
  redis.call('XADD', recent, 'MAXLEN', '~', LIMIT.recent_max, '*', 'i', record.id, 's', state)
  families[#families + 1] = record
end

-- How long a settled promise is kept: as its root. 0: the root is still pending; 1: it is gone already.
-- nil: under this id there is another promise by now.
local function time_to_keep(record)
  local state, birth, retention = unpack(redis.call('HMGET', record.key, F.state, F.birth, F.retention))
  if not state or state == STATE.pending or birth ~= record.birth then return nil end
  local root = string.match(record.id, '^[^~]*')
  if root == record.id then return tonumber(retention or LIMIT.retention_ms) end
  local root_state, root_birth = unpack(redis.call('HMGET', promise_prefix .. root, F.state, F.birth))
  if not root_state or root_birth ~= birth then return 1 end
  if root_state == STATE.pending then return 0 end
  return math.max(redis.call('PTTL', promise_prefix .. root), 1)
end

-- One member of the journal of an ended promise: what is pending ends with it, what is kept goes with it.
local function close_member(record, number, raw, keep_ms)
  local entry = read_entry(raw)
  if not entry then return end
  if entry.due ~= '' and entry.state == STATE.pending then
    redis.call('ZREM', timers, record.id .. '~' .. number)
  end
  if entry.kind ~= KIND.child or entry.child_id ~= '' then return end
  local child = load(record.id .. '~' .. number)
  if not child or child.birth ~= record.birth then return end
  if child.state == STATE.pending then
    finish(child, STATE.canceled, '')
  elseif child.family then
    families[#families + 1] = child
  end
  if keep_ms > 0 then redis.call('PEXPIRE', child.key, int(keep_ms)) end
end

-- Close what has ended in this script, at most `LIMIT.family_max` members; the rest waits in `closing`.
local function close_families()
  local room = LIMIT.family_max
  while #families > 0 do
    local record = table.remove(families)
    local keep_ms = time_to_keep(record)
    if keep_ms then
      if keep_ms > 0 then redis.call('PEXPIRE', record.key, int(keep_ms)) end
      local size = redis.call('HLEN', record.key)
      if size > room then
        redis.call('ZADD', closing, int(now), record.id)
      else
        room = room - size
        local fields = redis.call('HGETALL', record.key)
        for i = 1, #fields, 2 do
          if string.find(fields[i], '^%d') then close_member(record, fields[i], fields[i + 1], keep_ms) end
        end
      end
    end
  end
end
