-- Checks one thing at this instant by the laws that broken data would violate; with `repair` it repairs everything that
-- needs no guess. The thing cannot change between the check and the repair.
-- `what` is promise, mail (the mailbox of an execution), limit, timer, entry (of queue `name`, with id `at`), halted, closing, member (of `workers`), schedule or
-- expiring (a key).
-- A promise is checked in pages: `at` is "" at first, then the answer of the page before.
-- Answers per item: where to go on, "" at the end; then for each finding its kind, id, a sentence, and whether it was
-- repaired ("1"), could be ("0") or cannot be ("").
-- @include keys
-- @include each_item
-- @include find
-- @include mailbox
-- @include foreign_waiters
-- @include last_id
-- @include schedule_form
local repair = unpack(ARGV, 1, 1)

if repair == '1' then redis.call('ZREM', timers, '') end -- broken data may be repaired on a full Redis

local STEP = 16 -- entries checked at a time, as in load
local KEPT_MS = 90000 -- of a key that should expire, when its expiry is repaired

-- @include found

-- Whether the firer will come: this promise, one above it, or an ended run of either waits to be closed.
local function is_closing(id)
  while id do
    if redis.call('ZSCORE', closing, id) or redis.call('ZSCORE', closing, id .. '~run') then return true end
    id = owner_of(id)
  end
  return false
end

local function check_timer(member, due)
  local score = redis.call('ZSCORE', timers, member)
  if score and tonumber(score) == tonumber(due) then return end
  local text = score and 'its timer has another time than its due time' or 'is due some time, but has no timer'
  found(score and 'mistimed' or 'untimed', member, text, function()
    set_timer(member, tonumber(due))
  end)
end

-- A new stream entry: the holder of the old one is fenced.
local function again(record)
  return function()
    leave(record)
    dispatch(record)
    save(record)
  end
end

local function as_number(entry)
  local ms, number = string.match(entry, '^(%d+)%-(%d+)$')
  return tonumber(ms or '0'), tonumber(number or '0')
end

-- Whether the group has read past an entry.
local function is_delivered(record)
  local groups = redis.pcall('XINFO', 'GROUPS', queue_prefix .. record.queue)
  if groups.err then return false end
  for _, group in ipairs(groups) do
    local is_ours = false
    for i = 1, #group, 2 do
      if group[i] == 'name' then is_ours = group[i + 1] == group_of(record.queue) end
      if is_ours and group[i] == 'last-delivered-id' then
        local ms, number = as_number(group[i + 1])
        local our_ms, our_number = as_number(record.entry)
        return ms > our_ms or (ms == our_ms and number >= our_number)
      end
    end
  end
  return false
end

local function args_of(record)
  local names = { F.args }
  for i = 1, LIMIT.args_parts_max - 1 do
    names[i + 1] = F.args .. i
  end
  local args = ''
  for _, part in ipairs(redis.call('HMGET', record.key, unpack(names))) do
    args = args .. (part or '')
  end
  return args
end

-- The data of an execution in its stream entry is a hint: it may be older. But data that does not change as long as the
-- execution is queued must be the same as in its hash, see `write_snapshot`.
local function is_true_of(record, snapshot)
  local line, body = string.match(snapshot, '^([^\n]*)\n(.*)$')
  if not line then return false end
  local values = {}
  for value in string.gmatch(line .. '\t', '([^\t]*)\t') do
    values[#values + 1] = value
  end
  local size = tonumber(values[7])
  local entries_size = 0
  for i = 9, #values, 2 do
    entries_size = entries_size + (tonumber(values[i]) or 0)
  end
  return size ~= nil
    and values[1] == record.incarnation
    and string.sub(body, 1, size) == args_of(record)
    and string.sub(body, size + entries_size + 1) == record.func
end

local function as_table(fields)
  local by_name = {}
  for i = 1, #fields, 2 do
    by_name[fields[i]] = fields[i + 1]
  end
  return by_name
end

local function check_queued(record)
  local row = record.entry and redis.call('XRANGE', queue_prefix .. record.queue, record.entry, record.entry)[1]
  local fields = row and row[2] or {}
  local entry = as_table(fields)
  if entry.i ~= record.id or tonumber(entry.e) ~= record.epoch then
    return found('unqueued', record.id, 'is queued, but its stream has no entry for it', again(record))
  end
  if fields[5] == 'x' and not is_true_of(record, fields[6]) then
    return found('misquoted', record.id, 'is queued, but its stream entry does not match it', again(record))
  end
  if not holder(record) and is_delivered(record) then
    found('undelivered', record.id, 'was delivered, but nobody holds it', again(record))
  end
end

local function check_delayed(record)
  if not record.due then
    return found('unqueued', record.id, 'is delayed, but nothing says until when', again(record))
  end
  local member = redis.call('ZSCORE', timers, record.id .. '~retry') and '~retry' or '~start'
  check_timer(record.id .. member, record.due)
end

-- At the gate of its limit, or with a slot of it.
local function check_limit_of(record)
  local sign, name, key = gates().parts_of(record.limit or '')
  if not sign then
    if record.place ~= PLACE.parked then return end
    return found('nowhere', record.id, 'is parked, but has no limit', again(record))
  end
  local gate = gates().gate_of(name)
  local is_held = redis.call('HEXISTS', gate.key .. ':held', record.id) == 1
  if record.place == PLACE.parked then
    local is_known = redis.call('ZSCORE', gates().parked_of(gate, key), record.id)
      or redis.call('ZSCORE', timers, record.id .. '~replaced')
    if not is_known then found('unparked', record.id, 'is parked, but its limit does not know it', again(record)) end
  elseif sign == '+' and not is_held then
    found('unheld', record.id, 'has a slot of limit ' .. name .. ', which does not count it', function()
      gates().hold_slot(gate, record.id, key)
    end)
  elseif sign == '+' and record.place ~= PLACE.queued and not gate.is_for_life then
    found('unfreed', record.id, 'has a slot of limit ' .. name .. ', but does not run', function()
      free_slot(record)
      save(record)
    end)
  elseif record.place == PLACE.queued and sign == '-' then
    found('unheld', record.id, 'is queued, but has not passed the gate of limit ' .. name, again(record))
  end
end

-- An entry that waits for another partition asks until it has settled.
local function check_foreign(member)
  if redis.call('ZSCORE', timers, member .. '~ask') then return end
  found('untimed', member, 'waits for another partition, but asks for nothing', function()
    set_timer(member .. '~ask', now)
  end)
end

-- Whether it waits for an execution with an id of its own.
local function check_attached(record, number, entry)
  local target = load(entry.child_id)
  local member = record.id .. '~' .. number
  if not target then
    return found('gone', member, 'waits for ' .. entry.child_id .. ', which does not exist any more: cancel it')
  end
  if target.state == STATE.pending then
    local waiter = 'p' .. record.incarnation .. ' ' .. member
    if not is_waiting(target, waiter) then
      found('untold', member, 'waits for ' .. target.id .. ', which does not know it', function()
        wait_for(target, waiter)
      end)
    end
  elseif not is_closing(target.id) then
    found('untold', member, 'has not been told that ' .. target.id .. ' has ended', function()
      settle_entry(record, number, entry, target.state, redis.call('HGET', target.key, F.value) or '')
    end)
  end
end

local function check_child(record, number, entry)
  local id = record.id .. '~' .. number
  local child = load(id)
  if not child or child.incarnation ~= record.incarnation then
    found('gone', id, 'is awaited, but there is no such execution', function()
      settle_entry(record, number, entry, STATE.canceled, '')
    end)
  elseif child.state ~= STATE.pending then
    found('untold', id, 'has ended, but the execution that asked for it was not told', function()
      settle_entry(record, number, entry, child.state, redis.call('HGET', child.key, F.value) or '')
    end)
  end
end

local messages = {} -- checks of messages, and of who waits for them

-- A receive that waits is in the index of its execution.
function messages.check_receive(record, number, entry)
  local member = record.id .. '~' .. number
  if entry.due ~= '' then check_timer(member, entry.due) end
  local line = '\n' .. number .. '\t' .. entry.name .. '\n'
  if string.find('\n' .. receives.of(record), line, 1, true) then return end
  found('unindexed', member, 'waits for a message, but its execution does not know it', function()
    receives.remove(record, number)
    extras.note(record, 'r')
    receives.add(record, number, entry.name)
    save(record)
  end)
end

-- What is in the index waits, and the mailbox has nothing for it.
function messages.check_index(record)
  for number, name in string.gmatch(receives.of(record), '([^\t\n]+)\t([^\n]+)\n') do
    local member, entry = record.id .. '~' .. number, read_entry(raw_of(record, number))
    local fits = entry and entry.kind == KIND.receive and entry.state == STATE.pending and entry.name == name
    if not fits then
      found('index', member, 'is listed as waiting for a message, but does not wait', function()
        receives.remove(record, number)
        save(record)
      end)
    elseif mailbox.has(record, name) then
      found('unread', member, 'waits for a message, and the mailbox has one', function()
        mailbox.serve(record, name)
      end)
    end
  end
  if extras.has(record, 'm') and redis.call('EXISTS', near(NEAR.mail .. record.id)) == 0 then
    found('mail', record.id, 'should have a mailbox, but has none', function()
      extras.remove(record, 'm')
    end)
  end
end

local function check_entry(record, number, raw)
  local entry = read_entry(raw)
  if not entry then
    found('corrupt', record.id .. '~' .. number, 'is not a journal entry of ours')
    return false
  end
  if entry.state ~= STATE.pending then return false end
  local may_be_foreign = entry.kind == KIND.child or entry.kind == KIND.detached
  local is_sent = entry.kind == KIND.send or entry.kind == KIND.settle
  if is_foreign(raw, entry) and (may_be_foreign or is_sent) then
    check_foreign(record.id .. '~' .. number)
    return true
  end
  if is_sent then
    found('corrupt', record.id .. '~' .. number, 'is pending, but asks nobody')
  elseif entry.kind == KIND.receive then
    messages.check_receive(record, number, entry)
  elseif entry.kind ~= KIND.child and entry.kind ~= KIND.timer and entry.kind ~= KIND.promise then
    found('newer', record.id .. '~' .. number, 'is of kind ' .. entry.kind .. ', which only a newer version knows')
  elseif entry.kind == KIND.child then
    if entry.child_id == '' then
      check_child(record, number, entry)
    else
      check_attached(record, number, entry)
    end
  elseif entry.due ~= '' then
    check_timer(record.id .. '~' .. number, entry.due)
  elseif entry.kind == KIND.timer then
    found('corrupt', record.id .. '~' .. number, 'is a timer without a due time')
  end
  return true
end

local checks = {}

-- A step that has resolved has no further attempt.
local function check_checkpoint(record, number)
  local entry = read_entry(redis.call('HGET', record.key, number) or nil)
  if not entry or entry.state ~= STATE.resolved then return end
  found('checkpoint', record.id .. '~' .. number, 'has resolved, but its checkpoint is still kept', function()
    redis.call('HDEL', record.key, F.checkpoint .. number)
  end)
end

-- Checks the entries among some fields of an execution; answers how many are pending.
local function check_entries(record, fields)
  local pending = 0
  for i = 1, #fields, 2 do
    local noted = string.match(fields[i], '^' .. F.checkpoint .. '(%d[%d.]*)$')
    if noted then check_checkpoint(record, noted) end
    local is_entry = string.find(fields[i], '^%d')
    if is_entry and check_entry(record, fields[i], fields[i + 1]) then pending = pending + 1 end
  end
  return pending
end

-- A value that changes as soon as the execution changes.
local function mark_of(record)
  return record.epoch .. '/' .. int(record.order) .. '/' .. (record.place or '')
end

-- The next page of a journal. Answers where to go on, "" at the end: the cursor of HSCAN, the mark of the execution,
-- and how many pending entries there were so far. The pages exist for this sum: a sleeping execution must wait for
-- something. The sum holds only if nothing has changed between the pages. An execution that changes is alive, and is
-- left alone.
local function check_journal(record, at)
  local mark = mark_of(record)
  local cursor, mark_before, pending = '0', mark, '0'
  if at ~= '' then
    cursor, mark_before, pending = string.match(at, '^(%d+) (%S+) (%d+)$')
  end
  if mark_before ~= mark then return '' end
  local page = redis.call('HSCAN', record.key, cursor, 'COUNT', STEP)
  pending = tonumber(pending) + check_entries(record, page[2])
  if #findings > 0 then return '' end -- a repair has changed it; other findings are reported already
  if page[1] ~= '0' then return page[1] .. ' ' .. mark .. ' ' .. pending end
  if record.place == PLACE.suspended and pending == 0 then
    found('stuck', record.id, 'sleeps, but nothing it waits for is pending', again(record))
  end
  return ''
end

-- Whether a waiter of another partition has not heard of an ending yet.
local function is_untold(record)
  return #foreign_waiters(record, 1) > 0
end

local function check_settled(record)
  if is_untold(record) and not is_closing(record.id) and not redis.call('ZSCORE', timers, record.id .. '~tell') then
    return found('untold', record.id, 'has ended, but nobody tells it to another partition', function()
      set_timer(record.id .. '~tell', now)
    end)
  end
  if is_untold(record) then return end
  if redis.call('PTTL', record.key) ~= -1 or is_closing(record.id) then return end
  local keep_ms = time_to_keep(record)
  if not keep_ms or keep_ms == 0 then return end
  found('kept', record.id, 'has ended, but is kept for ever', function()
    keep_for(record, keep_ms)
  end)
end

-- Waiters that are listed, and do not wait any more: executions, which are removed when they stop waiting, and clients
-- that were killed while they waited. Of a set only some are checked.
local function check_waiters(record)
  local gone, clients = {}, {}
  if record.waiters == WORD.many then
    gone = some_gone(waiters_prefix .. record.id, SAMPLE_WHEN_FULL)
  else
    for waiter in string.gmatch(record.waiters or '', '[^\n]+') do
      if is_gone(waiter) then gone[#gone + 1] = waiter end
    end
  end
  for _, waiter in ipairs(gone) do
    if string.sub(waiter, 1, 1) == 'i' then clients[#clients + 1] = waiter end
    local owner = owner_of(string.match(waiter, '^p%d+ (.*)$') or '')
    if owner and not is_closing(owner) and redis.call('EXISTS', run_prefix .. owner) == 0 then
      found('waiter', record.id, 'lists the waiter ' .. owner .. ', which does not wait', function()
        strike(record.id, waiter)
      end)
    end
  end
  if #clients > 0 then
    found('client', record.id, 'lists ' .. #clients .. ' waiting clients that are gone', function()
      for _, waiter in ipairs(clients) do
        strike(record.id, waiter)
      end
    end)
  end
end

-- What an execution publishes is kept as long as that.
function checks.view(id)
  local key = near(NEAR.view .. id)
  check_type(key, 'hash')
  if redis.call('EXISTS', key) == 0 then return '' end
  local record = load(id)
  if not record then
    found('view', id, 'has published something, but is gone', function()
      redis.call('UNLINK', key)
    end)
    return ''
  end
  if not extras.has(record, 'v') then
    found('view', id, 'has published something, but does not refer to it', function()
      extras.note(record, 'v')
      save(record)
    end)
  end
  local left, own = redis.call('PTTL', record.key), redis.call('PTTL', key)
  if left ~= -1 and own == -1 then
    found('kept', key, 'is kept for ever, but what has published it is not', function()
      redis.call('PEXPIRE', key, math.max(left, 1))
    end)
  elseif left == -1 and own ~= -1 then
    found('expiring', key, 'expires, but what publishes it does not', function()
      redis.call('PERSIST', key)
    end)
  end
  return ''
end

-- An execution that refers to its view has one.
local function check_extras(record)
  if not extras.has(record, 'v') or redis.call('EXISTS', near(NEAR.view .. record.id)) == 1 then return end
  found('view', record.id, 'refers to what it publishes, but there is nothing', function()
    extras.remove(record, 'v')
  end)
end

function checks.promise(id, at)
  local record = load(id)
  if not record then return '' end
  if record.extras and at == '' then check_extras(record) end
  if record.state ~= STATE.pending then
    check_settled(record)
    return ''
  end
  local ok, problem = pcall(check_known, record)
  if not ok then
    found('newer', id, string.match(text_of(problem), '(is .*)$'))
    return ''
  end
  if is_orphan(record) and not is_closing(id) then
    found('orphan', id, 'is pending, but the execution that asked for it has ended or is gone', function()
      finish(record, STATE.canceled, '')
    end)
    return ''
  end
  if redis.call('PTTL', record.key) ~= -1 then
    found('expiring', id, 'is pending, but its key expires', function()
      redis.call('PERSIST', record.key)
    end)
  end
  if record.deadline then check_timer(id .. '~timeout', record.deadline) end
  if record.waiters then check_waiters(record) end
  if record.kind ~= KIND.execution then return '' end
  messages.check_index(record)
  if record.limit or record.place == PLACE.parked then check_limit_of(record) end
  if record.place == PLACE.parked then return '' end
  if record.place == PLACE.queued then
    check_queued(record)
  elseif record.place == PLACE.delayed then
    check_delayed(record)
  elseif record.place == PLACE.halted then
    if not redis.call('ZSCORE', halted, id) then
      found('unnamed', id, 'is halted, but not in the list of halted executions', function()
        quarantine(id)
      end)
    end
  elseif record.place ~= PLACE.suspended then
    found('nowhere', id, 'is pending, but in no place', again(record))
  elseif record.unseen ~= '' then
    found('unwoken', id, 'sleeps, although an entry it waited for has settled', again(record))
  end
  return #findings == 0 and check_journal(record, at) or ''
end

local timer_kinds = {
  cron = true,
  timeout = true,
  start = true,
  retry = true,
  ask = true,
  tell = true,
  gate = true,
  gates = true,
  replaced = true,
  mail = true,
}

-- Whether something pending is due by this timer.
local function is_awaited(member)
  local id, what = owner_of(member)
  if not id then return false end
  if not timer_kinds[what] and what ~= '' and id ~= '' and not string.find(what, '^%d[%d.]*$') then
    found('newer', member, 'is a timer of kind ' .. what .. ', which only a newer version knows')
    return true
  end
  if what == 'gate' or what == 'gates' then
    local name = string.match(id, '^([^/]+)/')
    return name and redis.call('EXISTS', near(NEAR.limits .. name)) == 1
  end
  if what == 'cron' then return redis.call('EXISTS', schedule_prefix .. id) == 1 end
  if what == 'ask' then
    local owner_id, number = owner_of(id)
    local owner = owner_id and load(owner_id, { number })
    local raw = owner and owner.state == STATE.pending and raw_of(owner, number)
    local asked = raw and read_entry(raw)
    return asked and is_foreign(raw, asked) or is_closing(id)
  end
  if what == 'mail' then return #messages.untold(id) > 0 end
  local record = load(id, { what })
  if what == 'tell' then return record and record.state ~= STATE.pending and is_untold(record) or is_closing(id) end
  if not record or record.state ~= STATE.pending then return is_closing(id) end
  if not pcall(check_known, record) then return true end
  if what == 'timeout' then return record.deadline and true or false end
  if what == 'replaced' then return record.place == PLACE.parked end
  if what == 'start' or what == 'retry' then return record.place == PLACE.delayed end
  local entry = read_entry(raw_of(record, what))
  return entry and entry.state == STATE.pending and entry.due ~= '' or is_closing(id) -- it may be of an ended run
end

function checks.timer(member)
  if redis.call('ZSCORE', timers, member) and not is_awaited(member) then
    found('timer', member, 'is a timer that nobody waits for', function()
      unset_timer(member)
    end)
  end
  return ''
end

function checks.entry(queue, at)
  local row = redis.call('XRANGE', queue_prefix .. queue, at, at)[1]
  if not row then return '' end
  local entry = as_table(row[2])
  local id, epoch = entry.i or '', entry.e
  local ok, record = pcall(load, id)
  if ok and record and record.state == STATE.pending and record.entry == at and record.epoch == tonumber(epoch) then
    return ''
  end
  found('entry', queue .. ' ' .. at, 'is in the stream, but belongs to no queued execution', function()
    redis.call('XACK', queue_prefix .. queue, group_of(queue), at)
    redis.call('XDEL', queue_prefix .. queue, at)
  end)
  return ''
end

function checks.halted(name)
  if not redis.call('ZSCORE', halted, name) then return '' end
  local ok, record = pcall(load, name)
  local schedule, why = string.match(name, '^schedule:([%w_.-]+): (.*)$')
  if schedule and redis.call('HGET', schedule_prefix .. schedule, S.aside) ~= why then
    found('halted', name, 'is listed as quarantined, but is not', function()
      redis.call('ZREM', halted, name)
    end)
  elseif not ok or (not record and string.find(name, ': ', 1, true)) then
    local what = schedule and 'cannot be read by its workers: use app.schedule() again, or app.unschedule()'
      or 'was quarantined: look at it, then `durasleep namespace discard` it'
    found('aside', name, what)
  elseif not record or record.place ~= PLACE.halted then
    found('halted', name, 'is listed as halted, but is not', function()
      redis.call('ZREM', halted, name)
    end)
  end
  return ''
end

function checks.closing(id)
  local owner_id, what = owner_of(id)
  local is_there = what == 'run' and redis.call('EXISTS', run_prefix .. owner_id) == 1 or load(id)
  if redis.call('ZSCORE', closing, id) and not is_there then
    found('closing', id, 'is to be closed, but is gone', function()
      redis.call('ZREM', closing, id)
    end)
  end
  return ''
end

-- The key of a worker expires long after its last heartbeat.
function checks.member(name)
  if redis.call('ZSCORE', workers, name) and redis.call('EXISTS', worker_prefix .. name) == 0 then
    found('stale', name, 'is listed as a worker, but has sent no heartbeat for long', function()
      redis.call('ZREM', workers, name)
    end)
  end
  return ''
end

-- The set of the waiters of a promise: as long as its field refers to it, the ending or the closing of the promise
-- reads it.
function checks.waiters(id)
  local record = load(id)
  if record and record.waiters == WORD.many then return '' end
  if redis.call('EXISTS', waiters_prefix .. id) == 1 then
    found('waiters', id, 'has a set of waiters, but does not refer to it', function()
      redis.call('UNLINK', waiters_prefix .. id)
    end)
  end
  return ''
end

do
  -- Senders in other partitions that have not heard.
  function messages.untold(id)
    local found_lines, key = {}, near(NEAR.mail .. id)
    if not is_a(key, 'hash') then return found_lines end
    for _, name in ipairs(redis.call('HKEYS', key)) do
      if string.sub(name, 1, 1) == 'x' then found_lines[#found_lines + 1] = name end
    end
    return found_lines
  end

  -- What the fields of a mailbox say together: how many messages there are, with how many bytes, and where those of each
  -- channel begin and end.
  local function count_messages(fields)
    local count, bytes, channels = 0, 0, {}
    for i = 1, #fields, 2 do
      local sequence, channel = string.match(fields[i], '^m(%-?%d+) (.*)$')
      if sequence then
        local at, value = tonumber(sequence), string.match(fields[i + 1], '^[^\n]*\n(.*)$')
        count, bytes = count + 1, bytes + #(value or '')
        local known = channels[channel] or { at, at }
        channels[channel] = { math.min(known[1], at), math.max(known[2], at) }
      end
    end
    return count, bytes, channels
  end

  -- Every message is between the first and the next one of its channel.
  local function check_channels(id, key, fields, channels)
    local named = {}
    for i = 1, #fields, 2 do
      local channel = string.match(fields[i], '^c(.*)$')
      if channel then named[channel] = fields[i + 1] end
    end
    for channel, range in pairs(channels) do
      local head, tail = string.match(named[channel] or '', '^(%-?%d+) (%-?%d+)$')
      local fits = head and tonumber(head) <= range[1] and tonumber(tail) > range[2]
      if not fits then
        found('miscounted', id, 'has messages that its mailbox would not find', function()
          local next_free = math.max(range[2] + 1, tonumber(tail or '') or range[2] + 1)
          redis.call('HSET', key, 'c' .. channel, int(range[1]) .. ' ' .. int(next_free))
        end)
      end
    end
    for channel in pairs(named) do
      if not channels[channel] then
        found('miscounted', id, 'has a channel without messages in its mailbox', function()
          redis.call('HDEL', key, 'c' .. channel)
        end)
      end
    end
  end

  -- The numbers of a mailbox are those of its messages and lines.
  local function check_numbers(id, key, count, bytes, foreign)
    local known = redis.call('HGET', key, 'n') or ''
    local keys, calls = string.match(known, '^%d+ %d+ (%d+) (%d+) %d+$')
    local right = count .. ' ' .. int(bytes) .. ' ' .. (keys or '0') .. ' ' .. (calls or '0') .. ' ' .. foreign
    if known == right then return end
    found('miscounted', id, 'has a mailbox that counts other messages than it has', function()
      redis.call('HSET', key, 'n', right)
    end)
  end

  local function check_untold(id, foreign)
    if foreign == 0 or redis.call('ZSCORE', timers, id .. '~mail') then return end
    found('untold', id, 'has messages of other partitions, but nobody tells their senders', function()
      set_timer(id .. '~mail', now)
    end)
  end

  -- A mailbox: that of an execution that runs, or what is left of it until others have heard.
  function checks.mail(id)
    local key = near(NEAR.mail .. id)
    check_type(key, 'hash')
    local fields = redis.call('HGETALL', key)
    if #fields == 0 then return '' end
    local record, foreign = load(id), #messages.untold(id)
    local is_owned = record and record.state == STATE.pending and extras.has(record, 'm')
    local is_left = not is_owned and redis.call('PTTL', key) < 0
    if is_left and not redis.call('ZSCORE', timers, id .. '~mail') then -- it goes a minute after all have heard
      found('mail', id, 'has a mailbox, but no use for it any more', function()
        if foreign == 0 then return redis.call('UNLINK', key) end
        set_timer(id .. '~mail', now)
      end)
    elseif is_owned and redis.call('PTTL', key) ~= -1 then
      found('expiring', id, 'is pending, but its mailbox expires', function()
        redis.call('PERSIST', key)
      end)
    end
    check_untold(id, foreign)
    if #findings > 0 then return '' end
    local count, bytes, channels = count_messages(fields)
    check_channels(id, key, fields, channels)
    check_numbers(id, key, count, bytes, foreign)
    return ''
  end
end

-- The journal of an ended run.
function checks.run(id)
  local is_left = redis.call('EXISTS', run_prefix .. id) == 1 and not redis.call('ZSCORE', closing, id .. '~run')
  if is_left then
    found('run', id, 'has begun a new run, but the run before is not closed', function()
      close_later(id .. '~run')
    end)
  end
  return ''
end

do
  local COUNTED_MAX = 5000 -- slots that are counted at once

  local function correct_count(gate, key, count)
    local text = 'has ' .. count .. ' slots in use, but its limit counts others'
    found('miscounted', gate.name .. '/' .. key, text, function()
      gates().set_counter(gate, '=' .. key, count)
      gates().look_again(gate.name)
    end)
  end

  -- The slots in use by key are those that are held.
  local function check_counts(gate)
    if gate.used > COUNTED_MAX then return end
    local held, counted, fields = {}, {}, redis.call('HGETALL', gate.key .. ':gate')
    local ids = redis.call('HGETALL', gate.key .. ':held')
    for i = 2, #ids, 2 do
      held[ids[i]] = (held[ids[i]] or 0) + 1
    end
    for i = 1, #fields, 2 do
      local key = string.match(fields[i], '^=(.*)$')
      if key then counted[key] = tonumber(fields[i + 1]) or 0 end
    end
    for key, count in pairs(held) do
      if counted[key] ~= count then correct_count(gate, key, count) end
      counted[key] = nil
    end
    for key in pairs(counted) do
      correct_count(gate, key, 0)
    end
  end

  local function check_held(gate, id, key)
    local ok, record = pcall(load, id)
    if not ok then return end
    local is_ours = record and record.state == STATE.pending and record.limit == '+' .. gate.name .. '/' .. key
    if is_ours then return end
    found('leaked', id, 'has ended or waits, but a slot of limit ' .. gate.name .. ' is held for it', function()
      redis.call('HDEL', gate.key .. ':held', id)
      gates().set_counter(gate, '=' .. key, gates().counter(gate, '=' .. key) - 1)
      gates().look_again(gate.name)
    end)
  end

  -- A key with parked executions has no room, or a timer.
  local function check_waiting(gate, key)
    local first = redis.call('ZRANGE', gates().parked_of(gate, key), 0, 0)[1]
    local is_late = redis.call('ZSCORE', timers, gate.name .. '/~gates')
    local may_go = gates().is_open(gate) and gates().has_room_for_key(gate, key) and not gates().is_timed(gate, key)
    if first and (is_late or not may_go) then return end
    local text = first and 'has room, but what is parked there does not begin'
      or 'is to have parked executions, but has none'
    found('stuck', gate.name .. '/' .. key, text, function()
      gates().look_again(gate.name)
    end)
  end

  -- A limit: first its slots, then its keys, page by page.
  function checks.limit(name, at)
    local gate = gates().gate_of(name)
    local what, cursor = string.match(at, '^(%a+) (%d+)$')
    if not what then
      what, cursor = 'held', '0'
      check_counts(gate)
    end
    local page = what == 'held' and redis.call('HSCAN', gate.key .. ':held', cursor, 'COUNT', STEP)
      or redis.call('ZSCAN', gate.key .. ':waiting', cursor, 'COUNT', STEP)
    for i = 1, #page[2], 2 do
      if what == 'held' then
        check_held(gate, page[2][i], page[2][i + 1])
      else
        check_waiting(gate, page[2][i])
      end
    end
    if page[1] ~= '0' then return what .. ' ' .. page[1] end
    return what == 'held' and 'waiting 0' or ''
  end
end

-- Its timer need not be at its due time, which may be put off. One that is paused or has come to its end needs none,
-- unless an execution waits for its start.
local function check_schedule_timer(name, cron, due, is_paused, is_busy)
  local look_at = is_busy and now or tonumber(due) or now
  if is_paused or look_at >= LIMIT.due_ms_max then look_at = LIMIT.due_ms_max end
  local is_for_newer = is_newer_form(cron)
  local score
  if is_for_newer then
    score = redis.call('ZSCORE', schedules, name)
  else
    score = redis.call('ZSCORE', timers, name .. '~cron')
  end
  if score and (tonumber(score) < LIMIT.due_ms_max or look_at == LIMIT.due_ms_max) then return end
  if not is_for_newer and look_at == LIMIT.due_ms_max then return end
  found('untimed', name .. '~cron', 'is a schedule without a timer', function()
    set_timer_of(name, is_for_newer, look_at)
  end)
end

function checks.schedule(name)
  local key = schedule_prefix .. name
  local kept = redis.call('HMGET', key, S.cron, S.due, S.paused, S.running, S.waiting, S.starting)
  local cron, due, paused, running, waiting, starting = unpack(kept, 1, 6)
  if not due then return '' end
  if not is_newer_form(cron) then
    paused, running, waiting, starting = false, false, false, false -- of an older version: it knows no such fields
  end
  check_schedule_timer(name, cron, due, paused, starting or (waiting and not running))
  local ended = waiting and not paused and running and load(running) -- in another partition, it tells its schedule
  if ended and ended.state ~= STATE.pending and not is_closing(running) then
    found('untold', 'schedule:' .. name, 'waits for ' .. running .. ', which has ended', function()
      kin().end_scheduled(name, running)
    end)
  end
  return ''
end

-- A key whose content is checked elsewhere, or is only a hint: it holds what we write there, or nothing.
function checks.key(name)
  local of_kind = {
    audit = 'stream',
    closing = 'zset',
    failed = 'stream',
    functions = 'hash',
    group = 'hash',
    halted = 'zset',
    index = 'zset',
    recent = 'stream',
    schedules = 'zset',
    timers = 'zset',
    wake = 'stream',
    workers = 'zset',
  }
  check_type(near(name), of_kind[string.match(name, '^[^:]*')])
  return ''
end

function checks.expiring(key)
  if redis.call('PTTL', key) == -1 then
    found('kept', key, 'should expire, and does not', function()
      redis.call('PEXPIRE', key, KEPT_MS)
    end)
  end
  return ''
end

local function check(item)
  local what, name, at = unpack(ARGV, item + 1, item + 3)
  if not checks[what] then error('INVALID check ' .. what, 0) end
  findings = {}
  local next_at = checks[what](name, at)
  return { next_at, unpack(findings) }
end

local answers = each_item(2, check)
close_families()
at_end()
return answers
