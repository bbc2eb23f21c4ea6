-- @include find
-- @include value_of
-- @include full
-- A full Redis lets a settlement pass, because it frees memory; but not a large value.
local SETTLING = { [STATE.resolved] = true, [STATE.rejected] = true, [STATE.canceled] = true }

local function check_settling(state, payload, id)
  if not SETTLING[state] then error('INVALID state ' .. state, 0) end
  if is_full and #payload > LIMIT.full_value_bytes_max then
    error('FULL Redis has reached its maxmemory: it takes no large value for ' .. id, 0)
  end
end

local function settled_as(state, value, asked_state, asked_value)
  -- The same outcome again is a repeated call whose answer was lost.
  local word = state == asked_state and value == asked_value and 'settled' or 'already'
  return { word, state, value }
end

local function settle_in_journal(id, state, payload, owner, number, entry, by)
  if entry.kind ~= KIND.promise and (by or entry.kind ~= KIND.timer) then
    error('NOT_ALLOWED ' .. id .. ' is not a promise to settle from outside', 0)
  end
  check_size('entry ' .. id, entry.payload)
  spend(#entry.payload, 0)
  if entry.state ~= STATE.pending then return settled_as(entry.state, entry.payload, state, payload) end
  settle_entry(owner, number, entry, state, payload)
  return { 'settled', state, payload }
end

-- Settles a promise. `by` is the execution that does it, if one does; without an id if that is in another partition.
-- Its own promises are settled in the record that is loaded already.
local function settle_promise(id, state, payload, by)
  local owner_id, own_number = owner_of(id)
  if by and owner_id == by.id then
    local raw = raw_of(by, own_number)
    local entry = read_entry(raw)
    if not entry then error('NOT_FOUND there is no promise ' .. id, 0) end
    entry.payload = string.sub(raw, entry.body)
    return settle_in_journal(id, state, payload, by, own_number, entry, by)
  end
  local record, owner, number, entry = find(id)
  if not record then return settle_in_journal(id, state, payload, owner, number, entry, by) end
  if record.kind == KIND.execution then
    error('NOT_ALLOWED ' .. id .. ' is an execution: only it can settle itself', 0)
  end
  if by and record.kind ~= KIND.promise then error('NOT_ALLOWED ' .. id .. ' is not a promise', 0) end
  if record.state ~= STATE.pending then return settled_as(record.state, value_of(record), state, payload) end
  finish(record, state, payload)
  return { 'settled', state, payload }
end
