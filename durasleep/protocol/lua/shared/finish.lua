-- @include leave
-- @include notify_inbox
-- @include recent
-- @include budget
local families = {} -- records that have ended, whose family is to be closed at the end of the script
-- The effects of an ending beside its own hash and the waiting inboxes: a function that answers the table of kin.lua. A
-- script that seldom needs it makes it late.
local kin

-- In ms, 0 for ever.
local function retention_of(text)
  local keep_ms = tonumber(text or '') or LIMIT.retention_ms
  return keep_ms < 0 and 0 or math.max(keep_ms, 1)
end

-- What it has published is kept as long as itself.
local function keep_for(record, keep_ms)
  if keep_ms <= 0 then return end
  redis.call('PEXPIRE', record.key, int(keep_ms))
  if record.extras then kin().keep_extras(record, keep_ms) end
end

-- A line is an inbox, which gets the value if it is small, a promise that settles with this one, or the schedule that has
-- started it.
local function notify_waiter(record, kind, who, state, payload)
  if kind == 's' then return kin().end_scheduled(who, record.id) end
  if kind == 'p' then
    spend(#payload, LIMIT.ending_cost)
    return kin().settle_waiter(who, state, payload)
  end
  local carried = #payload <= LIMIT.inbox_value_bytes_max and payload or nil
  local size = #record.id + (carried and #carried or 0)
  local fields = hints_for(who, size)
  local n = #fields
  fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'i', record.id, 'b', record.incarnation
  fields[n + 5], fields[n + 6] = 's', state
  spend(size, 1)
  if carried then
    fields[n + 7], fields[n + 8] = 'v', carried
  end
end

-- Notifies the waiters, as many as there is room for. Answers those that are left for later, and those of other
-- partitions, which stay until they have heard of the ending (`told`). Waiters that only a newer version knows are left
-- to that version.
local function notify_waiters(record, waiters, state, payload)
  if waiters == WORD.many then return kin().notify_many(record, state, payload) end
  local inbox = string.match(waiters, '^i([^\n]+)\n$') -- mostly there is one waiter
  if inbox and not is_spent() then
    notify_waiter(record, 'i', inbox, state, payload)
    return '', ''
  end
  local newer, foreign = '', ''
  for at, kind, who in string.gmatch(waiters, '()(%a)([^\n]+)\n') do
    if is_spent() then return newer .. string.sub(waiters, at), foreign end
    if kind == 'i' or kind == 'p' or kind == 's' then
      notify_waiter(record, kind, who, state, payload)
    elseif kind == 'x' then
      foreign = foreign .. 'x' .. who .. '\n'
    else
      newer = newer .. kind .. who .. '\n'
    end
  end
  return newer, foreign
end

-- Keeps the waiters that an ending leaves. Those of other partitions are told by whoever fires its timer, again and
-- again; until then it does not expire.
local function keep_waiters(record, left, foreign)
  local is_set = left == WORD.many or foreign == WORD.many
  put(record, F.waiters, is_set and WORD.many or left .. foreign)
  if foreign ~= '' then
    record.is_untold = true
    set_timer(record.id .. '~tell', now)
  end
end

-- Ends a pending promise: it leaves its place, settles, its waiters are notified, and its family is to be closed.
-- `is_quiet` if none of its entries is pending.
local function finish(record, state, payload, is_quiet)
  leave(record)
  free_slot(record, true)
  if record.deadline then unset_timer(record.id .. '~timeout') end
  put(record, F.state, state)
  put(record, F.settled, now_text)
  put(record, F.value, payload)
  drop(record, F.place)
  if (record.crash_count or 0) > 0 then
    drop(record, F.crash_count)
    drop(record, F.lone_crash_count)
  end
  if record.extras then kin().finish_extras(record) end
  record.unseen = ''
  local waiters = record.waiters or ''
  if waiters ~= '' then drop(record, F.waiters) end
  save(record)
  record.waiters = ''
  if waiters ~= '' then
    local left, foreign = notify_waiters(record, waiters, state, payload)
    record.waiters = left
    if left ~= '' or foreign ~= '' then
      keep_waiters(record, left, foreign)
      save(record)
    end
  end
  note_ending(record, state)
  local has_owner = string.find(record.id, '~', 1, true)
  if has_owner then kin().notify_owner(record, state, payload) end
  is_quiet = is_quiet and not record.family and record.waiters == '' and not record.is_untold
  if is_quiet and not has_owner then
    keep_for(record, retention_of(record.retention)) -- nothing of it is left to close
  else
    record.is_quiet, record.ended_now = is_quiet, true
    families[#families + 1] = record
  end
end
