-- @include kin

-- Room for a new promise under an id: a settled leftover of another life goes, a pending one is ended first. Answers who
-- still waits, as its field says: they hear of the new one.
local function make_room(record)
  if record.state == STATE.pending then finish(record, STATE.canceled, '') end
  -- What it left behind would never be found again. Beyond one page it runs to its end by itself.
  if record.family then close_from(record, record.key, '0', 1) end
  redis.call('UNLINK', record.key)
  return record.waiters or ''
end
