-- What a person does to a pending promise: wake, reschedule, cancel, force, halt, resume; and to a failed one: retry.
-- Answers per item: a word for what happened, and the state. "asleep" means that nothing happened: an execution is
-- woken or moved through the timers it waits for, each under its own id, so that a repeat never changes the next timer.
-- `by` says who does it; empty if that is not to be kept.
-- @include keys
-- @include each_item
-- @include due_at
-- @include find
-- @include near

redis.call('ZREM', timers, '') -- control works while Redis is full

local actions = {}

function actions.wake(id)
  local record, owner, number, entry = find(id)
  if record and record.place == PLACE.delayed then
    check_queue(record.queue)
    leave(record)
    dispatch(record)
    save(record)
    return { 'woken', record.state }
  elseif record and record.kind == KIND.timer then
    if record.state ~= STATE.pending then return { 'already', record.state } end
    finish(record, STATE.resolved, '')
    return { 'woken', STATE.resolved }
  elseif record then
    -- Queued: it was woken before, maybe by this very call, if its answer was lost.
    local is_awake = record.place == PLACE.queued or record.place == PLACE.parked
    if record.state ~= STATE.pending or is_awake then return { 'already', record.state } end
    if record.place == PLACE.suspended then return { 'asleep', record.state } end
    error('NOT_ALLOWED ' .. id .. ' is not asleep', 0)
  end
  if entry.kind ~= KIND.timer then error('NOT_ALLOWED ' .. id .. ' is not a timer', 0) end
  if entry.state ~= STATE.pending then return { 'already', entry.state } end
  settle_entry(owner, number, entry, STATE.resolved, '')
  return { 'woken', STATE.resolved }
end

-- A timer, a promise with a timeout, a delayed start, or the deadline of an execution.
function actions.reschedule(id, due)
  local record, owner, number, entry = find(id)
  local instant = due_at(due)
  if (record or entry).state ~= STATE.pending then return { 'already', (record or entry).state } end
  if record then
    if record.place == PLACE.delayed then
      local member = redis.call('ZSCORE', timers, id .. '~start') and id .. '~start' or id .. '~retry'
      put(record, F.due, int(instant))
      set_timer(member, instant)
    elseif record.deadline then
      put(record, F.deadline, int(instant))
      set_timer(id .. '~timeout', instant)
    elseif record.place == PLACE.suspended then
      return { 'asleep', record.state }
    else
      error('NOT_ALLOWED ' .. id .. ' has nothing to reschedule: it is not asleep, not delayed, has no deadline', 0)
    end
    save(record)
    return { 'rescheduled', record.state }
  end
  if entry.due == '' then error('NOT_ALLOWED ' .. id .. ' has no due time', 0) end
  entry.due = int(instant)
  put_entry(owner, number, write_entry(entry, entry.payload))
  set_timer(id, instant)
  save(owner)
  return { 'rescheduled', entry.state }
end

-- At once if no code runs that could be told; otherwise an event in its journal, delivered once, at its await.
function actions.cancel(id)
  local record, owner, number, entry = find(id)
  if not record then
    if entry.state ~= STATE.pending then return { 'already', entry.state } end
    if entry.kind ~= KIND.promise and entry.kind ~= KIND.timer then
      error('NOT_ALLOWED ' .. id .. ' cannot be canceled by itself', 0)
    end
    settle_entry(owner, number, entry, STATE.canceled, '')
    return { 'canceled', STATE.canceled }
  end
  if record.state ~= STATE.pending then return { 'already', record.state } end
  local never_ran = (record.place == PLACE.queued and record.epoch == 1 and not holder(record))
    or (record.place == PLACE.parked and record.epoch == 0)
  if record.kind ~= KIND.execution or never_ran or record.place == PLACE.delayed or record.place == PLACE.halted then
    local word = record.place == PLACE.halted and 'canceled while halted'
      or record.place == PLACE.delayed and 'canceled while delayed'
      or 'canceled'
    finish(record, STATE.canceled, '')
    return { word, STATE.canceled }
  end
  if redis.call('HEXISTS', record.key, '0') == 1 then return { 'canceling', record.state } end
  journal(record, '0', { kind = KIND.cancel }, STATE.resolved, '')
  if record.place == PLACE.queued and not holder(record) then
    leave(record) -- the data of its entry are older: the holder of the new entry loads the journal, and sees the cancel
    dispatch(record)
  else
    rouse(record)
  end
  save(record)
  return { 'canceling', record.state }
end

function actions.force(id)
  local record = find(id)
  if not record then return actions.cancel(id) end
  if record.state ~= STATE.pending then return { 'already', record.state } end
  finish(record, STATE.canceled, '')
  return { 'canceled', STATE.canceled }
end

local function check_execution(record, id)
  if record then check_known(record) end
  if not record or record.kind ~= KIND.execution then error('NOT_ALLOWED ' .. id .. ' is not an execution', 0) end
end

function actions.halt(id, _, reason)
  local record = find(id)
  check_execution(record, id)
  if record.state ~= STATE.pending then return { 'already', record.state } end
  if record.place == PLACE.halted then return { 'halted', record.state } end
  check_type(halted, 'zset')
  leave(record)
  halt(record, reason)
  save(record)
  return { 'halted', record.state }
end

function actions.resume(id)
  local record = find(id)
  check_execution(record, id)
  if record.state ~= STATE.pending then return { 'already', record.state } end
  if record.place ~= PLACE.halted then return { 'running', record.state } end
  check_queue(record.queue)
  leave(record)
  drop(record, F.crash_count)
  drop(record, F.lone_crash_count)
  dispatch(record)
  save(record)
  return { 'resumed', record.state }
end

-- A part of the journal of an earlier incarnation: the executions it has called are closed. Answers whether that was
-- all.
local function forget_journal(record)
  local cursor = '0'
  repeat
    local page = redis.call('HSCAN', record.key, cursor, 'COUNT', SCAN_STEP)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local number, raw = page[2][i], page[2][i + 1]
      if string.find(number, '^%d') then
        local entry = read_entry(raw)
        if entry and entry.kind == KIND.child and entry.child_id == '' then close_later(record.id .. '~' .. number) end
        drop(record, number)
        spend(#raw, 1)
      elseif string.find(number, '^' .. F.checkpoint .. '%d') then
        drop(record, number)
      end
    end
    save(record)
  until cursor == '0' or is_spent()
  return cursor == '0'
end

local FAILED = { [STATE.rejected] = true, [STATE.timedout] = true, [STATE.canceled] = true }
local ENDED = {
  F.state,
  F.settled,
  F.value,
  F.created,
  F.begun,
  F.origins,
  F.unquoted,
  F.base,
  F.family,
  F.unseen,
  F.cursor,
  F.deadline,
  F.lacking,
  F.grown,
  F.receives,
  F.calls,
  F.extras,
  F.trace,
  F.trace_now,
}

-- A failed execution begins again under its id, with its arguments and as much time as it had. It is another
-- incarnation: its stamp is later, so that nothing of the old one is taken for its own. Its epoch is higher, so that a
-- worker that still holds the old one is fenced. One call closes a part of a long journal ("closing"), and the next
-- call goes on.
function actions.retry(id)
  close_families() -- it may have ended in this very script
  local record = find(id)
  check_execution(record, id)
  if owner_of(id) then
    error('NOT_ALLOWED ' .. id .. ' is a part of ' .. string.match(id, '^[^~]*') .. ': retry that one', 0)
  end
  if record.place == PLACE.halted then return { 'halted', record.state } end
  if record.state == STATE.pending then return { 'running', record.state } end
  if record.state == STATE.resolved then error('NOT_ALLOWED ' .. id .. ' has not failed: it has resolved', 0) end
  if not FAILED[record.state] then raise_newer(id .. ' has ended in state ' .. record.state) end
  check_queue(record.queue)
  check_type(timers, 'zset')
  check_type(closing, 'zset')
  if not forget_journal(record) then return { 'closing', record.state } end
  if record.extras then extras.clear(record) end
  for _, field in ipairs(ENDED) do
    drop(record, field)
  end
  record.saved_unseen, record.unseen = '', ''
  save(record)
  local lasted = record.deadline and tonumber(record.deadline) - tonumber(record.incarnation)
  record.incarnation = int(math.max(now, tonumber(record.incarnation) + 1))
  put(record, F.incarnation, record.incarnation)
  if record.incarnation ~= now_text then put(record, F.created, now_text) end
  if lasted then
    local deadline = math.min(tonumber(record.incarnation) + lasted, LIMIT.due_ms_max)
    put(record, F.deadline, int(deadline))
    set_timer(id .. '~timeout', deadline)
  end
  record.begins = true
  dispatch(record)
  save(record)
  redis.call('PERSIST', record.key)
  redis.call('ZREM', closing, id)
  return { 'retrying', STATE.pending }
end

-- A client does not wait any more.
function actions.unwait(id, _, inbox)
  strike(id, 'i' .. inbox)
  return { 'struck', STATE.pending }
end

-- A quarantined name, after a person has looked at it; a halted execution is not one.
function actions.discard(name)
  local ok, record = pcall(load, name)
  if ok and record and record.place == PLACE.halted then
    error('NOT_ALLOWED ' .. name .. ' is an execution: resume or cancel it', 0)
  end
  local word = redis.call('ZREM', halted, name) == 1 and 'discarded' or 'already'
  return { word, STATE.resolved }
end

local audit = near('audit')
local NOTHING = { already = true, running = true, asleep = true, closing = true } -- was changed

-- Keeps what a person has done, with what was done itself. It never fails that.
local function note_manual(by, action, id, word)
  if NOTHING[word] or not is_a(audit, 'stream') then return end
  local words = { A.by, by, A.verb, action, A.id, id, A.word, word }
  pcall(redis.call, 'XADD', audit, 'MAXLEN', '~', LIMIT.audit_max, '*', unpack(words))
end

local function control(at)
  local action, id, due, reason, by = unpack(ARGV, at + 1, at + 5)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  local answer = actions[action](id, due, reason)
  if by ~= '' then note_manual(by, action, id, answer[1]) end
  return answer
end

local answers = each_item(1, control)
close_families()
at_end()
return answers
