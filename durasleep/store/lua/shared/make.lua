-- @include due_at
-- @include timer
-- @include finish
-- @include args

-- Room for a new promise under an id: a settled leftover of another life goes, a pending one is ended first.
local function make_room(record)
  if record.state == STATE.pending then finish(record, STATE.canceled, '') end
  -- What it left behind would never be found again. Beyond one page it runs to its end by itself.
  if record.family then close_members(record, redis.call('HSCAN', record.key, '0', 'COUNT', LIMIT.family_max)[2], 1) end
  redis.call('DEL', record.key)
end

-- A new execution or promise. `start` and `deadline` are instants or nil.
local function make(id, birth, what, start, deadline)
  local record = {
    id = id,
    key = promise_prefix .. id,
    writes = {},
    known = {},
    state = STATE.pending,
    queue = what.queue,
    birth = birth,
    epoch = 0,
    order = 0,
    unseen = '',
  }
  if what.kind == KIND.execution then
    if start then
      record.place = PLACE.delayed
      put(record, F.place, record.place)
      put(record, F.due, int(start))
    else
      dispatch(record)
    end
    put(record, F.func, what.func)
    if what.queue ~= DEFAULT.queue then put(record, F.queue, what.queue) end
    put(record, F.args, first_part(what.args))
  end
  if what.kind ~= KIND.execution then put(record, F.kind, what.kind) end
  put(record, F.birth, birth)
  if birth ~= int(now) then put(record, F.created, int(now)) end
  if deadline then put(record, F.deadline, int(deadline)) end
  if what.call then put(record, F.call, what.call) end
  if what.waiters then put(record, F.waiters, what.waiters) end
  if what.retention and what.retention ~= '' then put(record, F.retention, what.retention) end
  save(record)
  if what.args then add_parts(record, what.args) end
  if record.place == PLACE.delayed then set_timer(id .. '~start', start) end
  if deadline then set_timer(id .. '~timeout', deadline) end
  return record
end
