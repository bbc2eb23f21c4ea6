-- @include kin

-- Makes room for a new promise under an id: a settled promise of another incarnation is deleted, a pending one is ended
-- first. Answers its remaining waiters as a field: they wait for the new promise.
local function make_room(record)
  if record.state == STATE.pending then finish(record, STATE.canceled, '') end
  -- Nothing would find its members after this. Beyond one page of them, the others run to their end by themselves.
  if record.family then close_from(record, record.key, '0', 1) end
  if record.extras then extras.clear(record) end
  redis.call('UNLINK', record.key)
  return record.waiters or ''
end
