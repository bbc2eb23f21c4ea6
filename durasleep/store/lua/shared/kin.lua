-- @include load
-- @include settle_entry
-- @include finish
-- @include at_end
-- @include text_of

-- Left for the firer: more than one script may do.
local function close_later(id)
  if not is_a(closing, 'zset') then return end
  redis.call('ZADD', closing, now_text, id)
  earliest_made = now
end

-- What cannot be closed is put aside by name, or left for a newer version.
local function leave_open(id, problem)
  if is_newer(problem) then return close_later(id) end
  put_aside('closing:' .. id .. ': ' .. text_of(problem))
end

-- Entry `number` of whoever asked for a child settles with it, if it is still the one that asked.
local function settle_for(owner_id, number, birth, state, payload)
  local ok, owner = pcall(load, owner_id, { number })
  if not ok then return put_aside('promise:' .. owner_id .. ': ' .. text_of(owner)) end
  if not owner or owner.state ~= STATE.pending or owner.birth ~= birth then return end
  local entry = read_entry(raw_of(owner, number))
  if not entry or entry.state ~= STATE.pending or entry.kind ~= KIND.child then return end
  settle_entry(owner, number, entry, state, payload)
end

-- A promise that waits for another one, as birth and id.
local function settle_waiter(who, state, payload)
  local birth, promise = string.match(who, '^(%d+) (.*)$')
  local owner_id, number = owner_of(promise or '')
  if owner_id then settle_for(owner_id, number, birth, state, payload) end
end

local function tell_owner(record, state, payload)
  local owner_id, number = owner_of(record.id)
  settle_for(owner_id, number, record.birth, state, payload)
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

-- How long a settled promise is kept: as its root. 0: for ever, or the root is still pending; 1: it is gone already.
-- nil: under this id there is another promise by now.
local function time_to_keep(record)
  -- A root that has ended in this script: what is loaded holds.
  if record.ended_now and not owner_of(record.id) then return retention_of(record.retention) end
  local state, birth, retention = unpack(redis.call('HMGET', record.key, F.state, F.birth, F.retention))
  if not state or birth ~= record.birth then return nil end
  local root = string.match(record.id, '^[^~]*')
  if root ~= record.id then
    state, birth, retention = unpack(redis.call('HMGET', promise_prefix .. root, F.state, F.birth, F.retention))
    if birth ~= record.birth then return 1 end
    if not state then return is_remembered(record.id) and 0 or retention_of(retention) end
    local left = redis.call('PTTL', promise_prefix .. root)
    if left >= 0 then return math.max(left, 1) end
  end
  return retention_of(retention)
end

-- One member of the journal of an ended promise: what is pending ends with it, what is kept goes with it.
local function close_member(record, number, raw, keep_ms)
  local entry = read_entry(raw)
  if not entry then return end
  if entry.due ~= '' and entry.state == STATE.pending then unset_timer(record.id .. '~' .. number) end
  if entry.kind ~= KIND.child or entry.child_id ~= '' then return end
  local child = load(record.id .. '~' .. number)
  if not child or child.birth ~= record.birth then return end
  if child.state == STATE.pending then
    finish(child, STATE.canceled, '')
  elseif child.family then
    families[#families + 1] = child
  else
    keep_for(child.key, keep_ms)
  end
end

-- A broken member never keeps its family open.
local function close_members(record, fields, keep_ms)
  for i = 1, #fields, 2 do
    if string.find(fields[i], '^%d') then
      local ok, problem = pcall(close_member, record, fields[i], fields[i + 1], keep_ms)
      if not ok then leave_open(record.id .. '~' .. fields[i], problem) end
    end
  end
end

-- All of one family if there is `room`, else none of it yet. Until it is closed, its head is kept:
-- whoever closes the rest must find it. Answers how many members it took.
local function close_family(record, room)
  local keep_ms = time_to_keep(record)
  if not keep_ms then return 0 end
  if record.is_quiet then
    keep_for(record.key, keep_ms)
    return 1
  end
  local size = redis.call('HLEN', record.key)
  if size > room or (record.waiters or '') ~= '' then
    close_later(record.id)
    return 0
  end
  close_members(record, redis.call('HGETALL', record.key), keep_ms)
  keep_for(record.key, keep_ms)
  return size
end

-- Close what has ended in this script, at most `LIMIT.family_max` members; the rest waits in `closing`.
local function close_families()
  local room = LIMIT.family_max
  while #families > 0 do
    local record = table.remove(families)
    local ok, size = pcall(close_family, record, room)
    if ok then
      room = room - size
    else
      leave_open(record.id, size)
    end
  end
end

-- Whether a child has lost the execution that asked for it: ended, gone, or begun anew.
local function is_orphan(record)
  local owner_id, number = owner_of(record.id)
  if not owner_id then return false end
  local state, birth, entry = unpack(redis.call('HMGET', promise_prefix .. owner_id, F.state, F.birth, number))
  return state or birth ~= record.birth or not entry
end

local kinship = {
  settle_waiter = settle_waiter,
  tell_owner = tell_owner,
  close_families = close_families,
  is_orphan = is_orphan,
}

function kin()
  return kinship
end
