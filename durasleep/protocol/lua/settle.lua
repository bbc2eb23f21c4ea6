-- Resolves, rejects or cancels a promise from outside. The first outcome stays (law 6).
-- Answers per item: "settled" or "already", the state, the value.
-- @include keys
-- @include each_item
-- @include find
-- @include value_of
-- @include full

-- A full Redis lets a settlement pass, because it frees memory; but not a large value.
local settling = { [STATE.resolved] = true, [STATE.rejected] = true, [STATE.canceled] = true }

local function outcome(state, value, asked_state, asked_value)
  -- The same outcome again is a repeated call whose answer was lost.
  local word = state == asked_state and value == asked_value and 'settled' or 'already'
  return { word, state, value }
end

local function settle_in_journal(id, state, payload, owner, number, entry)
  if entry.kind ~= KIND.promise and entry.kind ~= KIND.timer then
    error('NOT_ALLOWED ' .. id .. ' is not a promise to settle from outside', 0)
  end
  check_size('entry ' .. id, entry.payload)
  spend(#entry.payload, 0)
  if entry.state ~= STATE.pending then return outcome(entry.state, entry.payload, state, payload) end
  settle_entry(owner, number, entry, state, payload)
  return { 'settled', state, payload }
end

local function settle(at)
  local id, state, payload = unpack(ARGV, at + 1, at + 3)
  if not settling[state] then error('INVALID state ' .. state, 0) end
  if is_full and #payload > LIMIT.full_value_bytes_max then
    error('FULL Redis has reached its maxmemory: it takes no large value for ' .. id, 0)
  end
  local record, owner, number, entry = find(id)
  if not record then return settle_in_journal(id, state, payload, owner, number, entry) end
  if record.kind == KIND.execution then
    error('NOT_ALLOWED ' .. id .. ' is an execution: only it can settle itself', 0)
  end
  if record.state ~= STATE.pending then return outcome(record.state, value_of(record), state, payload) end
  finish(record, state, payload)
  return { 'settled', state, payload }
end

local answers = each_item(1, settle)
close_families()
at_end()
return answers
