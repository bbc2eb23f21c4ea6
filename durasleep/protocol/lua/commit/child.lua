-- What it starts: children, executions with ids of their own, and detached ones.

-- The eleventh value of an op names the partition of a child, if it is another one.
local function partition_of(op)
  return ARGV[op] == '11' and ARGV[op + 11] or nil
end

-- How long its family is kept, by the retention of its root.
local function family_retention(record)
  return redis.call('HGET', promise_prefix .. string.match(record.id, '^[^~]*'), F.retention)
end

local TRAITS = '^(%d?)\t([^\t]*)\t([%d.]*)\t([^\t]*)\t([%w_-]*)$' -- priority, key, weight, labels, trace
local planned = {} -- op -> what it would make

-- What a child would be. It waits in the queue of its parent, unless the op or its function says otherwise.
local function plan_child(record, op)
  local _, func, queue, args, _, child_id, retention, _, traits = unpack(ARGV, op + 2, op + 10)
  if retention == '' and child_id ~= '' then retention = family_retention(record) or '' end
  local what = {
    kind = KIND.execution,
    func = func,
    queue = queue ~= '' and queue or record.queue,
    args = args,
    retention = retention,
  }
  if traits ~= '' then
    local trace
    what.priority, what.key, what.weight, what.labels, trace = string.match(traits, TRAITS)
    if not what.key then error('INVALID traits ' .. traits, 0) end
    if trace ~= '' then what.trace = trace end
  end
  complete(what)
  if child_id == '' then what.retention = nil end -- it is kept with the family
  planned[op] = what
  return what
end

function checks.child(record, op)
  local number, func, _, _, deadline, child_id, retention, start = unpack(ARGV, op + 2, op + 9)
  check_text(func .. child_id)
  if not string.find(retention, '^-?%d*$') then error('INVALID retention ' .. retention, 0) end
  if deadline ~= '' then due_at(deadline) end
  if start ~= '' then due_at(start) end
  if partition_of(op) then return end
  check_queue(plan_child(record, op).queue)
  local child = load(child_id ~= '' and child_id or record.id .. '~' .. number)
  if child and child_id ~= '' and ARGV[op + 1] == 'child' and has_no_room(child) then
    error('NOT_ALLOWED ' .. LIMIT.promise_waiters_max .. ' executions wait for ' .. child_id .. ' already', 0)
  end
end

local function instant_of(due)
  return due ~= '' and due_at(due) or nil
end

local function instant_word(due)
  return due ~= '' and '=' .. int(due_at(due)) or ''
end

-- The firer finds the entry by its timer, and asks the other partition until the entry has settled (see fire.lua).
local function ask_elsewhere(record, op, kind)
  local number, func, queue, args, deadline, child_id, retention, start, traits = unpack(ARGV, op + 2, op + 10)
  local entry = { kind = kind, state = STATE.pending, stamp = begin_of(record), name = func, child_id = child_id }
  local what = {
    partition_of(op),
    queue ~= '' and queue or record.queue,
    instant_word(deadline),
    instant_word(start),
    retention ~= '' and retention or family_retention(record) or '',
  }
  if traits ~= '' then what[#what + 1] = traits end
  put_entry(record, number, write_entry(entry, table.concat(what, '\t') .. '\n' .. args))
  set_timer(record.id .. '~' .. number .. '~ask', now)
end

local REFUSED_AS = { keyless = 'K', elsewhere = 'T', refuse = 'F', drop = 'D' }

-- Why a child cannot be made, as the payload of its entry: one letter, which no error is (see `runtime/journal.py`).
local function refused_child(id, op, is_delayed)
  local what = planned[op]
  return what.limit and REFUSED_AS[(refusal_of(id, what, is_delayed))]
end

-- A child of the family, or an execution with an id of its own; if that exists, the call attaches to it. It is kept
-- as long as the family, unless `retention` says otherwise.
function apply.child(record, op)
  local number, func, _, _, deadline, child_id, _, start = unpack(ARGV, op + 2, op + 9)
  if raw_of(record, number) then return end
  if partition_of(op) then return ask_elsewhere(record, op, KIND.child) end
  local entry = { kind = KIND.child, state = STATE.pending, stamp = begin_of(record), name = func, child_id = child_id }
  local id = child_id ~= '' and child_id or record.id .. '~' .. number
  local child, waiting = load(id), ''
  if child and child_id == '' and child.incarnation ~= record.incarnation then
    waiting = make_room(child)
    child = nil
  end
  if child and child.func ~= func then
    journal(record, number, entry, STATE.rejected, '') -- empty: the id belongs to another function
    return
  end
  if child and child.state ~= STATE.pending and not is_spent() then
    local value = redis.call('HGET', child.key, F.value) or ''
    spend(#value, 0)
    journal(record, number, entry, child.state, value)
    return
  end
  local refused = not child and refused_child(id, op, start ~= '')
  if refused then
    journal(record, number, entry, STATE.rejected, refused)
    return
  end
  put_entry(record, number, write_entry(entry, ''))
  local waiter = child_id ~= '' and 'p' .. record.incarnation .. ' ' .. record.id .. '~' .. number or nil
  if child then
    save(record)
    if waiter then wait_for(child, waiter) end
    if child.state ~= STATE.pending then -- no room for its value: it is told as one that has just ended
      redis.call('PERSIST', child.key)
      close_later(child.id)
    end
    return
  end
  if not waiter and not record.family then
    record.family = '1'
    put(record, F.family, record.family)
  end
  local what = planned[op]
  what.waiters = waiter and waiter .. '\n' or waiting ~= '' and waiting or nil
  make(id, waiter and now_text or record.incarnation, what, instant_of(start), instant_of(deadline))
end

function checks.detached(record, op)
  if ARGV[op + 7] == '' then error('INVALID a detached execution needs an id of its own', 0) end
  checks.child(record, op)
end

-- A detached execution: nobody waits for it. Its entry settles as soon as it has been started, or exists already.
function apply.detached(record, op)
  local number, func, _, _, deadline, id, _, start = unpack(ARGV, op + 2, op + 9)
  if raw_of(record, number) then return end
  if partition_of(op) then return ask_elsewhere(record, op, KIND.detached) end
  local entry = { kind = KIND.detached, name = func, child_id = id }
  local child = load(id)
  if child and child.func ~= func then
    journal(record, number, entry, STATE.rejected, '') -- empty: the id belongs to another function
    return
  end
  local refused = not child and refused_child(id, op, start ~= '')
  if refused then
    journal(record, number, entry, STATE.rejected, refused)
    return
  end
  if not child then
    local what = planned[op]
    make(id, now_text, what, instant_of(start), instant_of(deadline))
  end
  journal(record, number, entry, STATE.resolved, '')
end
