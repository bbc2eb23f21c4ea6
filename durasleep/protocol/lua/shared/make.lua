-- @include due_at
-- @include timer
-- @include dispatch
-- @include args
-- @include snapshot
-- @include functions
-- @include gates

-- A new execution, which is complete, or a new promise. `start` and `deadline` are instants or nil.
-- Answers its record.
local function make(id, incarnation, what, start, deadline)
  local record = {
    id = id,
    key = promise_prefix .. id,
    state = STATE.pending,
    func = what.func,
    incarnation = incarnation,
    queue = what.queue,
    epoch = 0,
    unseen = '',
    saved_unseen = '',
  }
  if what.labels and what.labels ~= '' then record.labels = what.labels end
  record.trace = what.trace
  if what.limit then
    if what.replaces then gates().replace_oldest(what.limit, what.key) end
    record.limit, record.weight, record.begins = '-' .. what.limit .. '/' .. what.key, what.weight, true
  end
  if what.kind == KIND.execution then
    record.sets = { F.func, what.func, F.args, first_part(what.args), F.incarnation, incarnation }
    if start then
      put(record, F.place, PLACE.delayed)
      put(record, F.due, int(start))
      set_timer(id .. '~start', start)
    else
      dispatch(record, snapshot_of_new(what, incarnation, deadline))
    end
    if what.queue ~= DEFAULT.queue then put(record, F.queue, what.queue) end
  else
    record.sets = { F.kind, what.kind, F.incarnation, incarnation }
  end
  if incarnation ~= now_text then put(record, F.created, now_text) end
  if deadline then
    put(record, F.deadline, int(deadline))
    set_timer(id .. '~timeout', deadline)
  end
  if what.idempotency_key then put(record, F.idempotency_key, what.idempotency_key) end
  if what.waiters then put(record, F.waiters, what.waiters) end
  if record.labels then put(record, F.labels, record.labels) end
  if record.trace then put(record, F.trace, record.trace) end
  if record.limit then put(record, F.limit, record.limit) end
  local keep_ms = tonumber(what.retention or '')
  if keep_ms and keep_ms ~= LIMIT.retention_ms then put(record, F.retention, what.retention) end
  save(record)
  add_parts(record, what.args)
  if indexed and what.func ~= '' then add_to_index(indexed, id, what.func, what.labels, now_text) end
  return record
end
