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
