-- Everything one activation asked for, and its outcome: all of it or, with FENCED, nothing.
-- `open` is empty if all it ever asked for has settled: whoever holds the lease knows, for nobody else can ask.
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
-- `asked` is what it last asked for: what is pending has no stamp to know it by.
local function check_history(record, seen, seen_number, asked)
  if asked ~= '' and not raw_of(record, asked) then
    error('FENCED the journal of ' .. record.id .. ' has no entry ' .. asked, 0)
  end
  if seen == '0' then return end
  local entry = read_entry(raw_of(record, seen_number))
  if not entry or entry.stamp ~= seen then
    error('FENCED the journal of ' .. record.id .. ' has no stamp ' .. seen, 0)
  end
end

-- A child that outlived its parent is told so: nobody waits for what it does.
local function check_parent(record)
  if not is_orphan(record) then return end
  finish(record, STATE.canceled, '')
  error('FENCED the parent of ' .. record.id .. ' has ended: it is canceled', 0)
end

-- Ops follow the item's fixed part: how many values, then type, number and the rest.
local function read_ops(item, at)
  local ops = {}
  while at <= #item do
    local size, op = tonumber(item[at]), {}
    for i = 1, size do
      op[i] = item[at + i]
    end
    if not string.find(op[2], '^%d[%d.]*$') then error('INVALID entry number ' .. op[2], 0) end
    ops[#ops + 1] = op
    at = at + size + 1
  end
  return ops
end

-- The entries a commit speaks of.
local function numbers_of(ops, seen_number, asked)
  local numbers = { seen_number ~= '' and seen_number or nil }
  if asked ~= '' then numbers[#numbers + 1] = asked end
  for _, op in ipairs(ops) do
    numbers[#numbers + 1] = op[2]
  end
  return numbers
end

-- Entry `number` as this commit finds it, its own writes included.
local function current(record, fresh, number)
  return fresh[number] or read_entry(raw_of(record, number))
end

local apply = {}

function apply.timer(record, fresh, op)
  local number, name, due = op[2], op[3], op[4]
  if current(record, fresh, number) then return end
  local instant = due_at(due)
  fresh[number] = { kind = KIND.timer, state = STATE.pending, due = int(instant), name = name }
  put_entry(record, number, write_entry(fresh[number], ''))
  set_timer(record.id .. '~' .. number, instant)
end

function apply.promise(record, fresh, op)
  local number, name, due = op[2], op[3], op[4]
  if current(record, fresh, number) then return end
  local instant = due ~= '' and due_at(due) or nil
  fresh[number] = { kind = KIND.promise, state = STATE.pending, due = instant and int(instant) or '', name = name }
  put_entry(record, number, write_entry(fresh[number], ''))
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
  if entry.due and entry.due ~= '' then unset_timer(record.id .. '~' .. number) end
  entry.state, entry.stamp, entry.due = STATE.canceled, '', ''
  fresh[number] = entry
  put_entry(record, number, write_entry(entry, ''))
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
  put_entry(record, number, write_entry(entry, ''))
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
    kind = KIND.execution,
    func = func,
    queue = queue ~= '' and queue or record.queue,
    args = args,
    waiters = waiter and waiter .. '\n',
  }
  make(id, waiter and int(now) or record.birth, what, nil, deadline ~= '' and due_at(deadline) or nil)
end

-- An execution nobody waits for: its entry settles as soon as it has been started, or exists already.
function apply.detached(record, fresh, op)
  local number, func, queue, args, deadline, id = op[2], op[3], op[4], op[5], op[6], op[7]
  if current(record, fresh, number) then return end
  fresh[number] = { kind = KIND.detached, name = func, child_id = id }
  local child = load(id)
  if child and child.func ~= func then
    journal(record, number, fresh[number], STATE.rejected, '') -- empty: the id belongs to another function
    return
  end
  if not child then
    local what = { kind = KIND.execution, func = func, queue = queue ~= '' and queue or record.queue, args = args }
    make(id, int(now), what, nil, deadline ~= '' and due_at(deadline) or nil)
  end
  journal(record, number, fresh[number], STATE.resolved, '')
end

-- Which code this execution runs. It settles nothing, so that nobody is woken for it.
function apply.mark(record, fresh, op)
  local number, kind, name = op[2], op[3], op[4]
  if current(record, fresh, number) then return end
  fresh[number] = { kind = kind, state = STATE.resolved, name = name }
  put_entry(record, number, write_entry(fresh[number], ''))
end

function apply.transaction(record, fresh, op)
  local number = op[2]
  if current(record, fresh, number) then return end
  fresh[number] = { kind = KIND.transaction, name = '' }
  local state, reply = run_transaction(op, 3)
  journal(record, number, fresh[number], state, reply)
end

-- Names stand in the heads of entries, between tabs.
local function check_text(text)
  if string.find(text, '[\t\n]') then error('INVALID a name with a tab or line end: ' .. text, 0) end
end

local checks = {}

function checks.timer(_, op)
  check_text(op[3])
  if op[1] == 'timer' or op[4] ~= '' then due_at(op[4]) end
end

checks.promise = checks.timer

function checks.child(record, op)
  local func, queue, deadline, child_id = op[3], op[4], op[6], op[7]
  check_text(func .. child_id)
  check_queue(queue ~= '' and queue or record.queue)
  if deadline ~= '' then due_at(deadline) end
  local child = load(child_id ~= '' and child_id or record.id .. '~' .. op[2])
  if child and child_id ~= '' and op[1] == 'child' and count_waiters(child) >= LIMIT.promise_waiters_max then
    error('NOT_ALLOWED ' .. LIMIT.promise_waiters_max .. ' executions wait for ' .. child_id .. ' already', 0)
  end
end

function checks.detached(record, op)
  if op[7] == '' then error('INVALID a detached execution needs an id of its own', 0) end
  checks.child(record, op)
end

function checks.step(_, op)
  check_text(op[3])
end

function checks.mark(_, op)
  check_text(op[4])
end

function checks.cancel(record, op)
  check_text(op[4])
  if op[3] == KIND.child then load(record.id .. '~' .. op[2]) end
end

function checks.transaction(_, op)
  check_transaction(op, 3)
end

-- What could make an op fail is looked at before the first write.
local function check_op(record, op)
  if not checks[op[1]] then error('INVALID op ' .. op[1], 0) end
  checks[op[1]](record, op)
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

function outcomes.retry(record, payload, due)
  delay(record, due, payload)
end

function outcomes.defer(record, payload, due)
  delay(record, due, payload)
end

function outcomes.halt(record, payload)
  leave(record)
  halt(record, payload)
end

-- What was pending in the old run ends with it, children beyond `LIMIT.family_max` a little later; what has
-- ended before is kept no longer than they are.
local function close_run(record, fields)
  local room = LIMIT.family_max
  local keep_ms = retention_of(redis.call('HGET', promise_prefix .. string.match(record.id, '^[^~]*'), F.retention))
  for i = 1, #fields, 2 do
    local entry = string.find(fields[i], '^%d') and read_entry(fields[i + 1])
    local is_child = entry and entry.kind == KIND.child and entry.state == STATE.pending and entry.child_id == ''
    if is_child and room == 0 then
      close_later(record.id .. '~' .. fields[i])
    elseif entry then
      if is_child then room = room - 1 end
      close_members(record, { fields[i], fields[i + 1] }, keep_ms)
    end
  end
end

-- The next run under the same id: the journal begins anew behind `base`, so that no number is used twice.
-- Only a cancel that the old run has not heard of is the new one's.
function outcomes.continue_as_new(record, payload, base)
  local is_canceled = string.find(' ' .. record.unseen, ' 0 ', 1, true)
  save(record) -- what this very commit has asked for belongs to the old run, too
  local fields = redis.call('HGETALL', record.key)
  leave(record)
  for i = 1, #fields, 2 do
    if string.find(fields[i], '^%d') and not (is_canceled and fields[i] == '0') then drop(record, fields[i]) end
  end
  if is_canceled then
    put(record, F.unseen, '0 ')
  else
    drop(record, F.unseen)
  end
  for i = 1, LIMIT.args_parts_max - 1 do
    drop(record, F.args .. i)
  end
  put(record, F.args, first_part(payload))
  put(record, F.base, base)
  put(record, F.begun, int(now))
  dispatch(record)
  save(record)
  add_parts(record, payload)
  close_run(record, fields)
end

-- What the outcome needs, looked at before the first write.
local function check_outcome(outcome, due)
  if outcome == 'retry' or outcome == 'defer' then due_at(due) end
  if outcome == 'halt' then check_type(halted, 'zset') end
  if outcome ~= 'continue' and not ending[outcome] and not outcomes[outcome] then
    error('INVALID outcome ' .. outcome, 0)
  end
end

-- The oldest unseen settlements, as many as one answer may carry.
local function unseen_entries(record, word)
  local answer, bytes = { word, '' }, 0
  for number in string.gmatch(record.unseen, '[^ ]+') do
    local raw = raw_of(record, number)
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
  if record.unseen == '' then
    drop(record, F.unseen)
  else
    put(record, F.unseen, record.unseen)
  end
end

-- An entry whose execution is gone, has ended or was dispatched anew leaves its stream; nothing else is written.
local function drop_entry(queue, entry, id, reason)
  local ok, record = pcall(load, id)
  if not ok then
    reason = reason ~= '' and reason or text_of(record)
  elseif record and record.state == STATE.pending and record.entry == entry then
    error('FENCED ' .. id .. ' lives in this entry', 0)
  end
  redis.call('XACK', queue_prefix .. queue, group_of(queue), entry)
  redis.call('XDEL', queue_prefix .. queue, entry)
  if reason ~= '' then put_aside('queue:' .. queue .. ':' .. entry .. ': ' .. reason) end
  return { 'dropped', '' }
end

local function commit(item)
  local id, queue, entry, epoch, seen, seen_number, outcome, payload, due, open, asked = unpack(item, 1, 11)
  if outcome == 'drop' then return drop_entry(queue, entry, id, payload) end
  local ops = read_ops(item, 12)
  local record = load(id, numbers_of(ops, seen_number, asked))
  check_fence(record, entry, epoch)
  check_history(record, seen, seen_number, asked)
  for _, op in ipairs(ops) do
    check_op(record, op)
  end
  check_outcome(outcome, due)
  check_parent(record)

  trim_unseen(record, seen_number)
  local fresh = {}
  for _, op in ipairs(ops) do
    apply[op[1]](record, fresh, op)
  end
  if record.deaths > 0 and outcome ~= 'defer' then -- deferred, it has not run
    drop(record, F.deaths)
    drop(record, F.lone_deaths)
  end
  if ending[outcome] then
    record.is_quiet = open == ''
    finish(record, ending[outcome], payload)
    return { 'ok', '' }
  elseif outcome == 'continue' then
    save(record)
    return unseen_entries(record, 'ok')
  elseif outcome == 'suspend' and record.unseen ~= '' then
    save(record)
    local news = unseen_entries(record, 'redrive')
    if #news > 2 then return news end
    drop(record, F.unseen) -- numbers without entries: nothing would ever be seen
  end
  outcomes[outcome](record, payload, due)
  save(record)
  return { 'ok', '' }
end

local answers = each_item(2, commit)
close_families()
at_end()
return answers
