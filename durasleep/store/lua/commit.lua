-- Everything one activation asked for, and its outcome: all of it or, with FENCED, nothing.
-- Answers per item: a word ("ok", "redrive", "dropped"), "1" if there is more, then the entries
-- settled after `seen`, as number and raw entry.
-- @include keys
-- @include each_item
-- @include make
-- @include wait_for
-- @include run_transaction
local consumer = unpack(ARGV, 1, 1)

-- What runs may finish on a full Redis: a first write that frees lets the rest pass.
redis.call('ZREM', timers, '')

-- The fence: stream entry and epoch, both as the worker read them, and the entry pending to this very consumer.
local function check_fence(record, entry, epoch)
  if not record or record.state ~= STATE.pending then error('FENCED the execution has ended', 0) end
  if record.entry ~= entry or record.epoch ~= tonumber(epoch) then
    error('FENCED ' .. record.id .. ' has been dispatched anew', 0)
  end
  if holder(record) ~= consumer then error('FENCED ' .. record.id .. ' is not held by ' .. consumer, 0) end
end

-- The worker's memory must be this server's history: after a rollback it may know what never happened here.
local function check_history(record, seen, seen_number)
  if seen == '0' then return end
  local entry = read_entry(redis.call('HGET', record.key, seen_number))
  if not entry or entry.stamp ~= seen then
    error('FENCED the journal of ' .. record.id .. ' has no stamp ' .. seen, 0)
  end
end

-- Ops follow the item's fixed part: how many values, then type, number and the rest.
local function read_ops(item, at)
  local ops = {}
  while at <= #item do
    local size, op = tonumber(item[at]), {}
    for i = 1, size do op[i] = item[at + i] end
    if not string.find(op[2], '^%d[%d.]*$') then error('INVALID entry number ' .. op[2], 0) end
    ops[#ops + 1] = op
    at = at + size + 1
  end
  return ops
end

-- Entry `number` as this commit finds it, its own writes included.
local function current(record, fresh, number)
  return fresh[number] or read_entry(redis.call('HGET', record.key, number))
end

local apply = {}

function apply.timer(record, fresh, op)
  local number, name, due = op[2], op[3], op[4]
  if current(record, fresh, number) then return end
  local instant = due_at(due)
  fresh[number] = { kind = KIND.timer, state = STATE.pending, due = int(instant), name = name }
  put(record, number, write_entry(fresh[number], ''))
  set_timer(record.id .. '~' .. number, instant)
end

function apply.promise(record, fresh, op)
  local number, name, due = op[2], op[3], op[4]
  if current(record, fresh, number) then return end
  local instant = due ~= '' and due_at(due) or nil
  fresh[number] = { kind = KIND.promise, state = STATE.pending, due = instant and int(instant) or '', name = name }
  put(record, number, write_entry(fresh[number], ''))
  if instant then set_timer(record.id .. '~' .. number, instant) end
end

function apply.step(record, fresh, op)
  local number, name, state, payload = op[2], op[3], op[4], op[5]
  if current(record, fresh, number) then return end
  fresh[number] = { kind = KIND.step, name = name }
  journal(record, number, fresh[number], state, payload)
end

-- What the workflow no longer wants: a tombstone, never delivered. Of a step there was no entry yet.
function apply.cancel(record, fresh, op)
  local number, kind, name = op[2], op[3], op[4]
  local entry = current(record, fresh, number)
  if entry and entry.state ~= STATE.pending then return end
  entry = entry or { kind = kind, name = name }
  if entry.due and entry.due ~= '' then redis.call('ZREM', timers, record.id .. '~' .. number) end
  entry.state, entry.stamp, entry.due = STATE.canceled, '', ''
  fresh[number] = entry
  put(record, number, write_entry(entry, ''))
  save(record)
  if entry.kind == KIND.child and (entry.child_id or '') == '' then
    local child = load(record.id .. '~' .. number)
    if child and child.birth == record.birth and child.state == STATE.pending then finish(child, STATE.canceled, '') end
  end
end

-- A child of the family, or an execution with an id of its own, which is attached to if it exists.
function apply.child(record, fresh, op)
  local number, func, queue, args, deadline, child_id = op[2], op[3], op[4], op[5], op[6], op[7]
  if current(record, fresh, number) then return end
  local entry = { kind = KIND.child, state = STATE.pending, name = func, child_id = child_id }
  fresh[number] = entry
  local id = child_id ~= '' and child_id or record.id .. '~' .. number
  local child = load(id)
  if child and child_id == '' and child.birth ~= record.birth then
    make_room(child)
    child = nil
  end
  if child and child.func ~= func then
    journal(record, number, entry, STATE.rejected, '') -- empty: the id belongs to another function
    return
  end
  if child and child.state ~= STATE.pending then
    journal(record, number, entry, child.state, redis.call('HGET', child.key, F.value) or '')
    return
  end
  put(record, number, write_entry(entry, ''))
  local waiter = child_id ~= '' and 'p' .. record.birth .. ' ' .. record.id .. '~' .. number or nil
  if child then
    if waiter then wait_for(child, waiter) end
    return
  end
  if not waiter and not record.family then
    record.family = '1'
    put(record, F.family, record.family)
  end
  local what = {
    kind = KIND.execution, func = func, queue = queue ~= '' and queue or record.queue, args = args,
    waiters = waiter and waiter .. '\n',
  }
  make(id, waiter and int(now) or record.birth, what, nil, deadline ~= '' and due_at(deadline) or nil)
end

function apply.transaction(record, fresh, op)
  local number = op[2]
  if current(record, fresh, number) then return end
  fresh[number] = { kind = KIND.transaction, name = '' }
  local state, reply = run_transaction(op, 3)
  journal(record, number, fresh[number], state, reply)
end

-- What could make an op fail is looked at before the first write.
local function check_op(record, op)
  if not apply[op[1]] then error('INVALID op ' .. op[1], 0) end
  if op[1] == 'child' then
    check_queue(op[4] ~= '' and op[4] or record.queue)
    load(op[7] ~= '' and op[7] or record.id .. '~' .. op[2])
    if op[6] ~= '' then due_at(op[6]) end
  elseif (op[1] == 'timer' or op[1] == 'promise') and op[4] ~= '' then
    due_at(op[4])
  elseif op[1] == 'transaction' then
    check_transaction(op, 3)
  end
end

local ending = { resolve = STATE.resolved, reject = STATE.rejected, cancel = STATE.canceled }

local outcomes = {}

function outcomes.suspend(record)
  leave(record)
  put(record, F.place, PLACE.suspended)
end

-- Delayed: a task between two attempts, or a function no worker knows yet.
local function delay(record, due, reason)
  leave(record)
  put(record, F.place, PLACE.delayed)
  local instant = due_at(due)
  put(record, F.due, int(instant))
  put(record, F.reason, reason)
  set_timer(record.id .. '~retry', instant)
end

function outcomes.retry(record, payload, due) delay(record, due, payload) end

function outcomes.defer(record, payload, due) delay(record, due, payload) end

function outcomes.halt(record, payload)
  leave(record)
  put(record, F.place, PLACE.halted)
  put(record, F.reason, payload)
  redis.call('ZADD', halted, int(now), record.id)
end

-- The next run under the same id: the journal begins anew behind `base`, so that no number is used twice.
function outcomes.continue_as_new(record, payload, base)
  leave(record)
  save(record)
  local fields = redis.call('HGETALL', record.key)
  for i = 1, #fields, 2 do
    if string.find(fields[i], '^%d') then
      close_member(record, fields[i], fields[i + 1], 0)
      drop(record, fields[i])
    end
  end
  drop(record, F.unseen)
  put(record, F.args, payload)
  put(record, F.base, base)
  dispatch(record)
end

-- The oldest unseen settlements, as many as one answer may carry.
local function unseen_entries(record, word)
  local answer, bytes = { word, '' }, 0
  for number in string.gmatch(record.unseen, '[^ ]+') do
    local raw = redis.call('HGET', record.key, number)
    if raw then
      bytes = bytes + #raw
      if #answer > 2 * LIMIT.answer_entries_max or (bytes > LIMIT.answer_bytes_max and #answer > 2) then
        answer[2] = '1'
        return answer
      end
      answer[#answer + 1] = number
      answer[#answer + 1] = raw
    end
  end
  return answer
end

-- Forget what the worker says it has seen; what is left is news.
local function trim_unseen(record, seen_number)
  if seen_number == '' or record.unseen == '' then return end
  local _, last = string.find(' ' .. record.unseen, ' ' .. seen_number .. ' ', 1, true)
  if not last then return end
  record.unseen = string.sub(record.unseen, last)
  if record.unseen == '' then drop(record, F.unseen) else put(record, F.unseen, record.unseen) end
end

-- An entry whose execution is gone, has ended or was dispatched anew leaves its stream; nothing else is written.
local function drop_entry(queue, entry, id, reason)
  local record = id ~= '' and load(id) or nil
  if record and record.state == STATE.pending and record.entry == entry then
    error('FENCED ' .. id .. ' lives in this entry', 0)
  end
  redis.call('XACK', queue_prefix .. queue, group_of(queue), entry)
  redis.call('XDEL', queue_prefix .. queue, entry)
  if reason ~= '' then redis.call('ZADD', halted, int(now), 'queue:' .. queue .. ':' .. entry .. ': ' .. reason) end
  return { 'dropped', '' }
end

local function commit(item)
  local id, queue, entry, epoch, seen, seen_number, outcome, payload, due = unpack(item, 1, 9)
  if outcome == 'drop' then return drop_entry(queue, entry, id, payload) end
  local record = load(id)
  check_fence(record, entry, epoch)
  check_history(record, seen, seen_number)
  local ops = read_ops(item, 10)
  for _, op in ipairs(ops) do check_op(record, op) end

  trim_unseen(record, seen_number)
  local fresh = {}
  for _, op in ipairs(ops) do apply[op[1]](record, fresh, op) end
  if record.deaths > 0 and outcome ~= 'defer' then -- deferred, it has not run
    drop(record, F.deaths)
    drop(record, F.lone_deaths)
  end
  if ending[outcome] then
    finish(record, ending[outcome], payload)
    return { 'ok', '' }
  elseif outcome == 'continue' then
    save(record)
    return unseen_entries(record, 'ok')
  elseif outcome == 'suspend' and record.unseen ~= '' then
    save(record)
    return unseen_entries(record, 'redrive')
  elseif not outcomes[outcome] then
    error('INVALID outcome ' .. outcome, 0)
  end
  outcomes[outcome](record, payload, due)
  save(record)
  return { 'ok', '' }
end

local answers = each_item(2, commit)
close_families()
tell_firers()
return answers
