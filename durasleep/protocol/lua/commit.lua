-- Writes the new ops of one activation and its outcome: all of it or, with FENCED, nothing.
-- `open` is empty if everything it has ever asked for has settled. The holder of the lease knows this, because only the
-- holder can ask for more.
-- Answers per item: "ok" if that is all; "unread" and how many messages its code has never got; "offered" if a deferred
-- execution is now held by another worker; else a word ("ok", "redrive", "dropped"), "1" if there is more, then the entries
-- settled after `seen`, as number and raw entry.
-- @include keys
-- @include each_item
-- @include shared_words
-- @include due_at
-- @include journal
-- @include finish
-- @include holder
-- @include at_end
-- @include check_size
-- @include full
local consumer = unpack(ARGV, 1, 1)

-- Functions that few commits need, see `seldom` below, are made when the first such commit comes. A script makes its
-- functions again at every call, and these sixty cost as much as a commit.
local seldom

-- @include commit/pending

-- @include commit/load_held

-- Names are written in the heads of entries, between tabs.
local function check_text(text)
  if string.find(text, '[\t\n]') then error('INVALID a name with a tab or line end: ' .. text, 0) end
end

-- Finds everything that could make an op fail before the first write, and prepares the write. An op that was made
-- before is skipped.
local checks, apply = {}, {}

function checks.timer(_, op)
  check_text(ARGV[op + 3])
  due_at(ARGV[op + 4])
end

function apply.timer(record, op)
  local number, name = ARGV[op + 2], ARGV[op + 3]
  if raw_of(record, number) then return end
  local instant = due_at(ARGV[op + 4])
  put_entry(record, number, timer_entry(begin_of(record), int(instant), name))
  set_timer(record.id .. '~' .. number, instant)
end

function checks.step(_, op)
  check_text(ARGV[op + 3])
end

function apply.step(record, op)
  local number, name, state, payload, began = unpack(ARGV, op + 2, op + 6)
  if raw_of(record, number) then return end
  journal(record, number, { kind = KIND.step, state = state, stamp = '', due = began, name = name }, state, payload)
end

local ending = { resolve = STATE.resolved, reject = STATE.rejected, cancel = STATE.canceled }

-- Puts an execution where it waits to go on later.
local function suspend(record)
  leave(record)
  free_slot(record)
  put(record, F.place, PLACE.suspended)
end

-- The oldest unseen settlements, as many as one answer may carry.
local function unseen_entries(record, word)
  local answer, bytes = { word, '', nil, nil }, 0 -- with room for one entry, the usual number
  for number in string.gmatch(record.unseen, '[^ ]+') do
    local raw = raw_of(record, number)
    if raw then
      if #raw > LIMIT.value_bytes_max then
        save(record)
        check_size('entry ' .. record.id .. '~' .. number, raw)
      end
      bytes = bytes + #raw
      if #answer > 2 * LIMIT.answer_entries_max or (bytes > LIMIT.answer_bytes_max and #answer > 2) then
        answer[2] = '1'
        break
      end
      answer[#answer + 1] = number
      answer[#answer + 1] = raw
    end
  end
  spend(bytes, 0)
  return #answer > 2 and answer or word
end

-- Removes the settlements that the worker has seen; the others are new to it.
local function trim_unseen(record, seen_number, seen)
  if seen_number == '' or record.unseen == '' then return end
  local _, last = string.find(' ' .. record.unseen, ' ' .. seen_number .. ' ', 1, true)
  if last then
    record.unseen = string.sub(record.unseen, last)
  elseif string.sub(raw_of(record, seen_number) or '', 1, 2) == KIND.receive .. STATE.canceled then
    seldom().trim_to(record, seen)
  end
end

-- queue, epoch, seen, seen_number, outcome, due, open, asked
local read_words = reader_of('^([^\t]*)\t(-?%d*)\t(%d*)\t([%d.]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([%d.]*)$')

local function commit(at, size)
  local id, entry, words, payload = unpack(ARGV, at + 1, at + 4)
  local queue, epoch, seen, seen_number, outcome, due, open, asked = read_words(words)
  if outcome == 'drop' then return seldom().drop_entry(queue, entry, id, payload) end
  local first, stop, final = at + 5, at + size, ending[outcome]
  local count = gather_numbers(first, stop, seen_number, asked)
  local record, held_epoch = load_held(id, queue, not final or first <= stop, final, count)
  check_fence(record, held_epoch, id, queue, entry, epoch)
  check_history(record, seen, seen_number, asked)
  local op = first
  while op <= stop do
    local known = record.known[ARGV[op + 2]]
    if known then
      if not read_entry(known) then error('CORRUPT journal entry ' .. id .. '~' .. ARGV[op + 2], 0) end
      spend(#known, 0)
    end
    local check = checks[ARGV[op + 1]] or seldom().check(ARGV[op + 1])
    check(record, op)
    op = op + ARGV[op] + 1
  end
  if not (final or outcome == 'suspend' or outcome == 'continue') then seldom().check_outcome(record, outcome, due) end
  if is_full then seldom().check_growth(record, first, stop, outcome ~= 'halt' and payload or '', final) end
  if string.find(id, '~', 1, true) then seldom().check_parent(record) end

  trim_unseen(record, seen_number, seen)
  op = first
  while op <= stop do
    apply[ARGV[op + 1]](record, op)
    op = op + ARGV[op] + 1
  end
  if record.crash_count and outcome ~= 'defer' then -- a deferred execution has not run
    drop(record, F.crash_count)
    drop(record, F.lone_crash_count)
    record.crash_count = nil
  end
  if final then
    finish(record, final, payload, open == '')
    return (record.unread or 0) > 0 and { 'unread', int(record.unread) } or 'ok'
  elseif outcome == 'continue' then
    save(record)
    return unseen_entries(record, 'ok')
  elseif outcome ~= 'suspend' then
    local word = seldom().outcomes[outcome](record, payload, due)
    save(record)
    return word or 'ok'
  elseif record.unseen == '' then
    suspend(record)
  else
    local unseen = unseen_entries(record, 'redrive')
    if unseen ~= 'redrive' then
      save(record)
      return unseen
    end
    record.unseen = '' -- numbers without entries could never be seen
    suspend(record)
  end
  save(record)
  return 'ok'
end

-- @include commit/other_workers

function seldom()
  -- @include kin
  -- @include make
  -- @include make_room
  -- @include run_transaction
  -- @include run
  -- @include mailbox
  -- @include settle_promise
  -- @include refusal

  -- A child whose parent has ended is told so: nobody waits for its result.
  local function check_parent(record)
    if not is_orphan(record) then return end
    record = load(record.id)
    finish(record, STATE.canceled, '')
    error('FENCED the parent of ' .. record.id .. ' has ended: it is canceled', 0)
  end

  function checks.promise(_, op)
    check_text(ARGV[op + 3])
    if ARGV[op + 4] ~= '' then due_at(ARGV[op + 4]) end
  end

  function apply.promise(record, op)
    local number, name, due = unpack(ARGV, op + 2, op + 4)
    if raw_of(record, number) then return end
    local instant = due ~= '' and due_at(due) or nil
    local entry = {
      kind = KIND.promise,
      state = STATE.pending,
      stamp = begin_of(record),
      due = instant and int(instant) or '',
      name = name,
    }
    put_entry(record, number, write_entry(entry, ''))
    if instant then set_timer(record.id .. '~' .. number, instant) end
  end

  -- @include commit/cancel

  -- @include commit/child

  -- @include commit/receive

  -- @include commit/send

  function checks.mark(_, op)
    check_text(ARGV[op + 4])
  end

  -- Which code this execution runs. It settles nothing, so nobody is woken for it.
  function apply.mark(record, op)
    local number, kind, name = unpack(ARGV, op + 2, op + 4)
    if raw_of(record, number) then return end
    put_entry(record, number, write_entry({ kind = kind, state = STATE.resolved, name = name }, ''))
  end

  function checks.checkpoint(_, op)
    if ARGV[op] ~= '3' then error('INVALID checkpoint', 0) end
  end

  -- What the next attempt of a step is to find, see note.lua; nothing if there is none.
  function apply.checkpoint(record, op)
    local number, payload = unpack(ARGV, op + 2, op + 3)
    if payload == '' then
      drop(record, F.checkpoint .. number)
    else
      put(record, F.checkpoint .. number, payload)
      put(record, F.unquoted, '1')
    end
  end

  function checks.publish(_, op)
    if ARGV[op] ~= '4' then error('INVALID publish', 0) end
  end

  -- What it publishes is no entry. A full Redis takes no more of it: nobody waits for it.
  function apply.publish(record, op)
    if not is_full then extras.publish(record, ARGV[op + 3], ARGV[op + 4]) end
  end

  function checks.trace(_, op)
    if ARGV[op] ~= '4' then error('INVALID trace', 0) end
  end

  -- The trace it belongs to, or the one in which it goes on. Neither is an entry.
  function apply.trace(record, op)
    put(record, ARGV[op + 3] == 'now' and F.trace_now or F.trace, ARGV[op + 4])
  end

  function checks.transaction(record, op)
    check_transaction(record.id, op + 3, op + ARGV[op])
  end

  function apply.transaction(record, op)
    local number = ARGV[op + 2]
    if raw_of(record, number) then return end
    local state, reply = run_transaction(op + 3, op + ARGV[op])
    journal(record, number, { kind = KIND.transaction, name = '' }, state, reply)
  end

  local function check(kind)
    if not checks[kind] then error('INVALID op ' .. kind, 0) end
    return checks[kind]
  end

  -- @include commit/outcomes

  -- @include commit/growth

  -- Checks everything that the outcome needs, before the first write.
  local function check_outcome(record, outcome, due)
    record.is_run_end = outcome == 'continue_as_new'
    if not outcomes[outcome] then error('INVALID outcome ' .. outcome, 0) end
    if outcome == 'retry' or outcome == 'defer' then due_at(string.match(due, '^%S*')) end
    if outcome == 'halt' then check_type(halted, 'zset') end
  end

  -- An entry whose execution is gone, has ended or was dispatched again leaves its stream; nothing else is written.
  local function drop_entry(queue, entry, id, reason)
    local ok, record = pcall(load, id)
    if not ok then
      reason = reason ~= '' and reason or text_of(record)
    elseif record and record.state == STATE.pending and record.entry == entry then
      error('FENCED ' .. id .. ' lives in this entry', 0)
    end
    redis.call('XACK', queue_prefix .. queue, group_of(queue), entry)
    redis.call('XDEL', queue_prefix .. queue, entry)
    if reason ~= '' then quarantine('queue:' .. queue .. ':' .. entry .. ': ' .. reason) end
    return 'dropped'
  end

  local made = {
    raise_unreadable = raise_unreadable,
    drop_entry = drop_entry,
    check = check,
    check_outcome = check_outcome,
    check_growth = check_growth,
    check_parent = check_parent,
    trim_to = trim_to,
    outcomes = outcomes,
  }
  function seldom() -- it replaces itself
    return made
  end
  return made
end

function kin()
  seldom() -- this replaces the current function
  return kin()
end

function gates()
  seldom()
  return gates()
end

items_left = count_items(2)
local answers = each_item(2, commit)
if #families > 0 then kin().close_families() end
at_end()
return answers
