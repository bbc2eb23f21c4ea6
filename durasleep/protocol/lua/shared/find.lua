-- @include kin

-- A promise with its own hash, or nil and the owner in whose journal it is, its number and entry. A hash that is left
-- from another incarnation of the family is neither.
local function find(id)
  local record = load(id)
  local owner_id, number = owner_of(id)
  if not owner_id then
    if not record then error('NOT_FOUND there is no promise ' .. id, 0) end
    return record
  end
  if record and redis.call('HGET', promise_prefix .. owner_id, F.incarnation) == record.incarnation then
    return record
  end
  local owner = load(owner_id)
  if record and not owner then return record end
  local raw = owner and redis.call('HGET', owner.key, number)
  local entry = read_entry(raw or nil)
  if not entry then error('NOT_FOUND there is no promise ' .. id, 0) end
  entry.payload = string.sub(raw, entry.body)
  if owner.state ~= STATE.pending and entry.state == STATE.pending then
    entry.state, entry.payload = STATE.canceled, ''
  end
  return nil, owner, number, entry
end
