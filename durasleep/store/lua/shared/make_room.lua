-- @include kin

-- Room for a new promise under an id: a settled leftover of another life goes, a pending one is ended first.
local function make_room(record)
  if record.state == STATE.pending then finish(record, STATE.canceled, '') end
  -- What it left behind would never be found again. Beyond one page it runs to its end by itself.
  if record.family then close_members(record, redis.call('HSCAN', record.key, '0', 'COUNT', LIMIT.family_max)[2], 1) end
  redis.call('DEL', record.key)
end
