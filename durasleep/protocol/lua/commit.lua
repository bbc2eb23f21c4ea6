-- Writes the new ops of one activation and its outcome: all of it or, with FENCED, nothing.
-- `open` is empty if everything it has ever asked for has settled. The holder of the lease knows this, because only the
-- holder can ask for more.
-- Answers per item: "ok" if that is all; "unread" and how many messages its code has never got; "offered" if a deferred execution is now held by another worker; else a word
-- ("ok", "redrive", "dropped"), "1" if there is more, then the entries settled after `seen`, as number and raw entry.
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

-- The entries that are pending to this very consumer. Items mostly come in the order of their entries, which mostly lie
-- together in the stream. So the entries behind one are asked for along with it: all if it is the first, later about as
-- many as the last question has saved us.
local known_of, items_left = {}, 0 -- queue -> entries that are held, and how many questions the last one has saved us

-- How many items there are from `first` on.
local function count_items(first)
  local count, at, last = 0, first, #ARGV
  while at <= last do
    count = count + 1
    at = at + ARGV[at] + 1
  end
  return count
end

local function note_pending(held, rows)
  local ids, ours = {}, 0
  for i = 1, #rows do
    ids[i] = rows[i][1]
    if rows[i][2] == consumer then
      held[ids[i]] = true
      ours = ours + 1
    end
  end
  return ids, ours
end

local function ask_pending(known, queue, entry)
  local stream, group = queue_prefix .. queue, group_of(queue) or ''
  local count = known.spared and math.min(items_left, 2 * known.spared + 1) or items_left
  local ids, ours = note_pending(known.held, redis.pcall('XPENDING', stream, group, entry, '+', count))
  note_run(queue, ids)
  if ours < #ids then -- other workers hold some in between
    note_pending(known.held, redis.pcall('XPENDING', stream, group, entry, '+', count, consumer))
  end
  known.spared = 0
end

local function is_held(queue, entry)
  local known = known_of[queue]
  if not known then
    known = { held = {} }
    known_of[queue] = known
  end
  if known.held[entry] then
    known.spared = known.spared + 1
  else
    ask_pending(known, queue, entry)
  end
  items_left = items_left - 1
  return known.held[entry]
end

-- The entries of a commit, as many as it answers: they are gathered in one table for all items. Ops follow the item's
-- fixed part: the number of values, then kind, number and the rest.
local named = {}

local function gather_numbers(op, stop, seen_number, asked)
  local n = 0
  if seen_number ~= '' then
    n = 1
    named[1] = seen_number
  end
  if asked ~= '' then
    n = n + 1
    named[n] = asked
  end
  while op <= stop do
    local number = ARGV[op + 2]
    if not string.find(number, '^%d[%d.]*$') then error('INVALID entry number ' .. number, 0) end
    n = n + 1
    named[n] = number
    op = op + ARGV[op] + 1
  end
  return n
end

-- The execution of an item: the fields that every commit needs; the order, if it may write to the journal; and for an
-- ending its waiters and its retention. The first `count` of `named` are read along. A promise that has ended has no
-- entry.
local query = { 'HMGET', '', F.entry, F.epoch, F.incarnation, F.unseen, F.crash_count, F.limit } -- for all items, too

local function load_held(id, queue, may_journal, is_ending, count)
  local key, n = promise_prefix .. id, 8
  query[2] = key
  if may_journal then
    query[9], n = F.order, 9
  end
  if is_ending then
    query[n + 1], query[n + 2], query[n + 3], query[n + 4] = F.waiters, F.deadline, F.family, F.retention
    query[n + 5], query[n + 6], query[n + 7] = F.func, F.created, F.extras
    n = n + 7
  end
  for i = 1, count do
    query[n + i] = named[i]
  end
  local v = redis.pcall(unpack(query, 1, n + count))
  if v.err then seldom().raise_unreadable(key) end
  if not v[3] then return nil end
  n = n - 2
  local known, epoch, order = {}, tonumber(v[2] or '0'), may_journal and tonumber(v[7] or '0') or 0
  if not (epoch and order) then error('CORRUPT ' .. key .. ' is not a promise of ours', 0) end
  for i = 1, count do
    known[named[i]] = v[n + i]
  end
  -- No more than sixteen fields, including those that `save` uses: Lua doubles a table that grows beyond. So an
  -- execution that ends without having asked for anything gets neither order nor epoch, which it does not need any
  -- more.
  local record
  if is_ending and not may_journal then
    record = {
      id = id,
      key = key,
      queue = queue,
      known = known,
      incarnation = v[3],
      entry = v[1],
      unseen = v[4] or '',
      saved_unseen = v[4] or '',
      waiters = v[n - 6],
      deadline = v[n - 5],
      family = v[n - 4],
      retention = v[n - 3],
      func = v[n - 2],
      created = v[n - 1],
    }
  else
    record = {
      id = id,
      key = key,
      queue = queue,
      known = known,
      incarnation = v[3],
      epoch = epoch,
      entry = v[1],
      order = order,
      unseen = v[4] or '',
      saved_unseen = v[4] or '',
    }
    if is_ending then
      record.waiters, record.deadline, record.family = v[n - 6], v[n - 5], v[n - 4]
      record.retention, record.func, record.created = v[n - 3], v[n - 2], v[n - 1]
    end
  end
  if v[5] then record.crash_count = tonumber(v[5]) end
  if v[6] then record.limit = v[6] end
  if is_ending and v[n] then record.extras = v[n] end
  return record, epoch
end

-- The fence: stream entry and epoch are those that the worker has read, and the entry is pending to this very consumer.
local function check_fence(record, held_epoch, id, queue, entry, epoch)
  if not record then error('FENCED there is no ' .. id, 0) end
  if record.entry ~= entry or held_epoch ~= tonumber(epoch) then
    error('FENCED ' .. id .. ' has ended, or has been dispatched again', 0)
  end
  if not is_held(queue, entry) then error('FENCED ' .. id .. ' is not held by ' .. consumer, 0) end
end

-- The worker's memory must be this server's history: after a rollback it may know events that never happened here.
-- `asked` is the last number it has asked for: a pending entry has no stamp that identifies it.
local function check_history(record, seen, seen_number, asked)
  if asked ~= '' and not raw_of(record, asked) then
    error('FENCED the journal of ' .. record.id .. ' has no entry ' .. asked, 0)
  end
  if seen == '0' then return end
  local raw = raw_of(record, seen_number)
  if raw and #raw > LIMIT.snapshot_bytes_max then spend(#raw, 0) end
  if not raw or not has_stamp(raw, seen) then
    error('FENCED the journal of ' .. record.id .. ' has no stamp ' .. seen, 0)
  end
end

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

-- The workers to which a deferred execution may go: a table of functions.
local function other_workers()
  local others = {}

  -- The function sets of workers that lack its function, with this one added.
  function others.note_lacking(record, functions)
    local lacking = redis.call('HGET', record.key, F.lacking) or ''
    if string.find(' ' .. lacking, ' ' .. functions .. ' ', 1, true) then return lacking end
    lacking = lacking .. functions .. ' '
    local _, count = string.gsub(lacking, ' ', '')
    if count > LIMIT.lacking_max then lacking = string.match(lacking, ' (.*)$') end
    put(record, F.lacking, lacking)
    return lacking
  end

  -- A living worker of the group whose functions are none of these sets, if all of them report theirs; nil if there is
  -- none.
  function others.find(record, lacking)
    local found = {}
    local members = redis.call('ZRANGE', workers, 0, LIMIT.offers_max - 1, 'REV', 'WITHSCORES')
    for i = 1, #members, 2 do
      local worker = redis.pcall('HMGET', worker_prefix .. members[i], W.group, W.functions, W.beat_ms)
      local functions, beat_ms = worker[2] or '', tonumber(worker[3] or '')
      local is_fit = not worker.err
        and members[i] ~= consumer
        and worker[1] == group_of(record.queue)
        and functions ~= ''
        and not string.find(' ' .. lacking, ' ' .. functions .. ' ', 1, true)
      if is_fit and beat_ms and math.abs(now - tonumber(members[i + 1])) < LIMIT.beats_missed * beat_ms then
        found[#found + 1] = members[i]
      end
    end
    return found[1 + string.byte(record.id, -1) % #found] -- so that not all go to the same worker
  end

  -- Passes the lease at once to a worker that may know the function: the entry stays in the stream, only its holder
  -- changes. A hint tells that worker; if the hint is lost, its next heartbeats do.
  function others.hand_over(record, other)
    local stream = queue_prefix .. record.queue
    local is_done = pcall(redis.call, 'XCLAIM', stream, group_of(record.queue), other, 0, record.entry, 'JUSTID')
    if not is_done then return false end -- by an ACL of an older version, without the command: nothing is written yet
    known_of[record.queue].held[record.entry] = nil
    local fields = hints_for(other, #record.id)
    fields[#fields + 1] = 't'
    fields[#fields + 1] = record.queue .. '\t' .. record.entry .. '\t' .. int(record.epoch) .. '\t' .. record.id
    return true
  end

  return others
end

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

  -- How many more receives may wait, of which this commit may cancel some first.
  local function room_for_receives(record)
    return record.room_for_receives or LIMIT.receives_max - receives.count(record)
  end

  -- A receive that is canceled: one that waits makes room, and one that has got a message returns it.
  local function plan_return(record, number)
    local entry = read_entry(raw_of(record, number))
    if not entry or entry.kind ~= KIND.receive then return end
    if entry.state == STATE.pending then record.room_for_receives = room_for_receives(record) + 1 end
    record.returning = record.returning or {}
    record.returning[number] = true
  end

  function checks.cancel(record, op)
    check_text(ARGV[op + 4])
    if ARGV[op + 3] == KIND.child then load(record.id .. '~' .. ARGV[op + 2]) end
    if ARGV[op + 3] == KIND.receive then
      check_type(near(NEAR.mail .. record.id), 'hash')
      plan_return(record, ARGV[op + 2])
    end
  end

  -- A receive that has got a message, which the code has not: the message returns. Its entry keeps its stamp, by which
  -- the worker knows this history.
  local function take_back(record, number, entry, raw)
    local reply, value = entry.child_id, string.sub(raw, entry.body)
    entry.state, entry.child_id = STATE.canceled, ''
    put_entry(record, number, write_entry(entry, ''))
    local first, last = string.find(' ' .. record.unseen, ' ' .. number .. ' ', 1, true)
    if first then record.unseen = string.sub(record.unseen, 1, first - 1) .. string.sub(record.unseen, last) end
    mailbox.return_message(record, entry.name, reply, value)
  end

  -- Removes the settlements up to a stamp: that of a receive whose message has returned, which is in the list no more.
  local function trim_to(record, seen)
    local left = {}
    for number in string.gmatch(record.unseen, '[^ ]+') do
      local entry = read_entry(raw_of(record, number))
      if entry and (tonumber(entry.stamp) or 0) > tonumber(seen) then left[#left + 1] = number .. ' ' end
    end
    record.unseen = table.concat(left)
  end

  -- The messages of all receives that this commit cancels, newest first, so that they stay in order; and at the end of a
  -- run also those that its code has not seen. None of these receives gets another one.
  local function take_all_back(record)
    local numbers, found = record.returning, {}
    record.returning = nil
    if record.is_run_end then
      receives.clear(record)
      for number in string.gmatch(record.unseen, '[^ ]+') do
        numbers[number] = true
      end
    end
    for number in pairs(numbers) do
      local raw = raw_of(record, number)
      local entry = read_entry(raw)
      if entry and entry.kind == KIND.receive and entry.state == STATE.resolved then
        found[#found + 1] = { number, entry, raw, tonumber(entry.stamp) }
      else
        receives.remove(record, number)
      end
    end
    table.sort(found, function(one, other)
      return one[4] > other[4]
    end)
    for _, one in ipairs(found) do
      take_back(record, one[1], one[2], one[3])
    end
    for _, one in ipairs(found) do
      mailbox.serve(record, one[2].name)
    end
  end

  -- An entry that the workflow has canceled: a tombstone, never delivered. A step had no entry yet.
  function apply.cancel(record, op)
    local number, kind, name = unpack(ARGV, op + 2, op + 4)
    if record.returning then take_all_back(record) end
    local raw = raw_of(record, number)
    local entry = read_entry(raw)
    if entry and entry.kind == KIND.receive and entry.state == STATE.resolved then -- made in this very commit
      take_back(record, number, entry, raw)
      return mailbox.serve(record, entry.name)
    end
    if entry and entry.state ~= STATE.pending then return end
    if entry and entry.kind == KIND.receive then receives.remove(record, number) end
    local is_elsewhere = entry and is_foreign(raw, entry)
    if is_elsewhere then unset_timer(record.id .. '~' .. number .. '~ask') end
    entry = entry or { kind = kind, name = name }
    if entry.due and entry.due ~= '' then unset_timer(record.id .. '~' .. number) end
    entry.state, entry.stamp, entry.due = STATE.canceled, '', entry.stamp or ''
    put_entry(record, number, write_entry(entry, ''))
    save(record)
    if entry.kind ~= KIND.child or is_elsewhere then return end
    if (entry.child_id or '') ~= '' then
      strike(entry.child_id, 'p' .. record.incarnation .. ' ' .. record.id .. '~' .. number)
    else
      local child = load(record.id .. '~' .. number)
      if child and child.incarnation == record.incarnation and child.state == STATE.pending then
        finish(child, STATE.canceled, '')
      end
    end
  end

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
    local entry =
      { kind = KIND.child, state = STATE.pending, stamp = begin_of(record), name = func, child_id = child_id }
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

  function checks.receive(record, op)
    local number, name, due = unpack(ARGV, op + 2, op + 4)
    check_text(name)
    if due ~= '' then due_at(due) end
    check_type(near(NEAR.mail .. record.id), 'hash')
    if raw_of(record, number) then return end
    record.room_for_receives = room_for_receives(record) - 1
    if record.room_for_receives < 0 then
      error('INVALID ' .. record.id .. ' waits for ' .. LIMIT.receives_max .. ' messages already', 0)
    end
  end

  -- Takes what is there, or waits.
  function apply.receive(record, op)
    local number, channel, due = unpack(ARGV, op + 2, op + 4)
    if raw_of(record, number) then return end
    local entry = { kind = KIND.receive, state = STATE.pending, name = channel, due = begin_of(record) }
    local reply, value = mailbox.take(record, channel)
    entry.child_id = reply
    if reply then return journal(record, number, entry, STATE.resolved, value) end
    if due == '+0' then return journal(record, number, entry, STATE.timedout, '') end
    entry.stamp, entry.due = entry.due, ''
    if due ~= '' then
      entry.due = int(due_at(due))
      set_timer(record.id .. '~' .. number, tonumber(entry.due))
    end
    put_entry(record, number, write_entry(entry, ''))
    extras.note(record, 'r')
    receives.add(record, number, channel)
  end

  local CODES = {
    NOT_FOUND = 'N',
    ENDED = 'E',
    MAILBOX_FULL = 'M',
    NOT_ALLOWED = 'A',
    CORRUPT = 'C',
    NEWER_VERSION = 'V',
  }

  -- What an entry gets that has sent or settled something: one or two letters, because a script cannot write errors (see
  -- `runtime/journal.py`). Its execution is saved first: what is sent may be for itself, or for what it has just begun.
  local function do_here(record, number, entry, act, ...)
    save(record)
    local ok, word = pcall(act, record, entry, ...)
    if ok then return journal(record, number, entry, STATE.resolved, word) end
    raise_refusal(word)
    local code = string.match(text_of(word), '^(%u[%u_]+)') or ''
    journal(record, number, entry, STATE.rejected, CODES[code] or 'C')
  end

  -- What another partition is asked for, again and again until it has answered: see fire.lua.
  local function ask_there(record, number, entry, body)
    entry.state, entry.stamp = STATE.pending, begin_of(record)
    put_entry(record, number, write_entry(entry, body))
    set_timer(record.id .. '~' .. number .. '~ask', now)
  end

  function checks.send(_, op)
    check_text(ARGV[op + 3])
    check_text(ARGV[op + 4])
  end

  local function send_here(record, entry, value)
    local id = entry.child_id
    local target = id == record.id and record or load(id)
    mailbox.check(target, id)
    return string.sub(mailbox.send(mailbox.prepare(target, entry.name, value), '', value), 1, 1)
  end

  function apply.send(record, op)
    local number, channel, id, value, partition = unpack(ARGV, op + 2, op + 6)
    if raw_of(record, number) then return end
    local entry = { kind = KIND.send, name = channel, child_id = id }
    if ARGV[op] == '6' then return ask_there(record, number, entry, partition .. '\n' .. value) end
    do_here(record, number, entry, send_here, value)
  end

  function checks.settle(_, op)
    check_text(ARGV[op + 3])
    check_settling(ARGV[op + 4], ARGV[op + 5], ARGV[op + 3])
  end

  local function settle_here(record, entry, state, value)
    return settle_promise(entry.child_id, state, value, record)[1] == 'settled' and '1' or '0'
  end

  function apply.settle(record, op)
    local number, id, state, value, partition = unpack(ARGV, op + 2, op + 6)
    if raw_of(record, number) then return end
    local entry = { kind = KIND.settle, name = '', child_id = id }
    if ARGV[op] == '6' then return ask_there(record, number, entry, partition .. '\t' .. state .. '\n' .. value) end
    do_here(record, number, entry, settle_here, state, value)
  end

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

  local makes_more = { child = true, detached = true, transaction = true, send = true }

  -- A full Redis takes no other executions, no commands of users and no large values, and only a little from each
  -- execution, so that the existing ones may end. An entry that was written before is not counted again.
  local function check_growth(record, op, stop, payload, is_ending)
    local before = tonumber(redis.call('HGET', record.key, F.grown) or '') or 0
    local grown, may_pass = before, #payload <= (is_ending and LIMIT.full_value_bytes_max or LIMIT.full_bytes_max)
    while op <= stop do
      local kind, size = ARGV[op + 1], tonumber(ARGV[op])
      local frees = kind == 'cancel'
        or kind == 'publish'
        or kind == 'trace'
        or kind == 'checkpoint' and ARGV[op + 3] == ''
      if not (frees or record.known[ARGV[op + 2]]) then
        grown = grown + LIMIT.full_entry_bytes
        for i = op + 3, op + size do
          grown = grown + #ARGV[i]
        end
        may_pass = may_pass and not makes_more[kind]
      end
      op = op + size + 1
    end
    if not may_pass or (grown > before and grown > LIMIT.full_bytes_max) then
      error('FULL Redis has reached its maxmemory: ' .. record.id .. ' waits: its commit needs more memory', 0)
    end
    if grown > before and not is_ending then put(record, F.grown, int(grown)) end
  end

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
