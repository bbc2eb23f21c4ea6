-- How an activation goes on, other than by an end or a pause.

local outcomes = {}

-- Delayed: a task between two attempts, or a function that no worker knows yet.
local function delay(record, due, reason)
  leave(record)
  free_slot(record)
  put(record, F.place, PLACE.delayed)
  local instant = due_at(due)
  put(record, F.due, int(instant))
  put(record, F.reason, reason)
  set_timer(record.id .. '~retry', instant)
end

-- If it was canceled while its attempt failed, there is no further attempt.
function outcomes.retry(record, payload, due)
  if not raw_of(record, '0') then return delay(record, due, payload) end
  save(record)
  finish(load(record.id), STATE.canceled, '')
end

local others = other_workers()

-- `due` may name the functions of a worker that does not know the function: it is delayed until then, if no other
-- worker may know it. Or `due` has "=" there, from a worker that knows the function and has no slot: then it stays
-- there, if no other worker may know it.
function outcomes.defer(record, payload, due)
  local delay_until, functions = string.match(due, '^(%S+) ?(%S*)$')
  local is_for_one = string.find(record.queue, '/', 1, true)
  if functions == '=' then
    local other = not is_for_one and others.find(record, redis.call('HGET', record.key, F.lacking) or '')
    if not other then return 'kept' end
    if others.hand_over(record, other) then return 'offered' end
  elseif functions ~= '' and not is_for_one then
    local other = others.find(record, others.note_lacking(record, functions))
    if other and others.hand_over(record, other) then return 'offered' end
  end
  delay(record, delay_until, payload)
end

function outcomes.halt(record, payload)
  leave(record)
  halt(record, payload)
end

-- The next run under the same id: its journal begins after `base`, so that no number is used twice. Pending entries
-- of the old run end with it, and those that have ended are kept no longer than it. Only a cancel that the old run
-- has not seen goes to the new run.
function outcomes.continue_as_new(record, payload, base)
  if extras.has(record, 'r') or extras.has(record, 'm') then mailbox.end_run(record) end
  local is_canceled = string.find(' ' .. record.unseen, ' 0 ', 1, true)
  local cancel = is_canceled and raw_of(record, '0')
  save(record) -- the ops of this commit belong to the old run, too
  local old = read_run(record.key)
  if not old then set_run_apart(record) end
  leave(record)
  for i = 1, old and #old or 0, 2 do
    if string.find(old[i], '^' .. F.checkpoint .. '?%d') then drop(record, old[i]) end
  end
  record.unseen = ''
  drop(record, F.lacking) -- the next run may be of another version
  drop(record, F.grown)
  for i = 1, LIMIT.args_parts_max - 1 do
    drop(record, F.args .. i)
  end
  save(record)
  if cancel then
    record.unseen = '0 '
    put(record, '0', cancel)
  end
  put(record, F.args, first_part(payload))
  put(record, F.base, base)
  put(record, F.begun, now_text)
  dispatch(record)
  save(record)
  add_parts(record, payload)
  if old then close_members(record, old, time_to_keep_run(record.id)) end
end
