-- Resolve, reject or cancel a promise from outside. The first outcome stays (law 6).
-- Answers per item: "settled" or "already", the state, the value.
-- @include keys
-- @include each_item
-- @include finish

-- A settlement is let through on a full Redis: it is what frees memory.
redis.call('ZREM', timers, '')

local function outcome(state, value, asked_state, asked_value)
  -- The same outcome again is a repeated call whose answer was lost.
  local word = state == asked_state and value == asked_value and 'settled' or 'already'
  return { word, state, value }
end

local function settle_in_journal(id, state, payload)
  local owner_id, number = owner_of(id)
  local record = owner_id and load(owner_id)
  local raw = record and redis.call('HGET', record.key, number)
  local entry = read_entry(raw or nil)
  if not entry then error('NOT_FOUND there is no promise ' .. id, 0) end
  if entry.kind ~= KIND.promise and entry.kind ~= KIND.timer then
    error('NOT_ALLOWED ' .. id .. ' is not a promise to settle from outside', 0)
  end
  if entry.state ~= STATE.pending then return outcome(entry.state, string.sub(raw, entry.body), state, payload) end
  if record.state ~= STATE.pending then return outcome(STATE.canceled, '', state, payload) end
  settle_entry(record, number, entry, state, payload)
  return { 'settled', state, payload }
end

local function settle(item)
  local id, state, payload = unpack(item, 1, 3)
  local record = load(id)
  if not record then return settle_in_journal(id, state, payload) end
  if record.kind == KIND.execution then
    error('NOT_ALLOWED ' .. id .. ' is an execution: only it can settle itself', 0)
  end
  if record.state ~= STATE.pending then
    return outcome(record.state, redis.call('HGET', record.key, F.value) or '', state, payload)
  end
  finish(record, state, payload)
  return { 'settled', state, payload }
end

local answers = each_item(1, settle)
close_families()
return answers
