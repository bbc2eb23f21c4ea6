-- A receive takes the message that is there, or waits.

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
