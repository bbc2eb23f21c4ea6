-- What the code of a workflow cancels: a tombstone for its entry, and a received message goes back.

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
