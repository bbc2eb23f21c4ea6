-- @include leave
-- @include tell_inbox
-- @include recent
local families = {} -- records that have ended, whose family is to be closed at the end of the script
-- What an ending means for others than its own hash and the inboxes that wait: a function that answers the table of
-- kin.lua. A script that seldom needs it makes it late.
local kin

local function retention_of(text)
  return math.max(tonumber(text or '') or LIMIT.retention_ms, 1)
end

local function keep_for(key, keep_ms)
  if keep_ms > 0 then redis.call('PEXPIRE', key, int(keep_ms)) end
end

-- Those who wait hear of it, at most `LIMIT.family_max`; answers the lines of the others. A line is an inbox, told with
-- the value if that is small, or a promise that settles with this one.
local function tell_waiters(record, waiters, state, payload)
  local told, at = 0, 1
  for kind, who, after in string.gmatch(waiters, '(%a)([^\n]+)\n()') do
    if told == LIMIT.family_max then break end
    if kind == 'p' then
      kin().settle_waiter(who, state, payload)
    else
      local carried = #payload <= LIMIT.inbox_value_bytes_max and payload or nil
      local fields = hints_for(who, #record.id + (carried and #carried or 0))
      local n = #fields
      fields[n + 1], fields[n + 2], fields[n + 3], fields[n + 4] = 'i', record.id, 'b', record.birth
      fields[n + 5], fields[n + 6] = 's', state
      if carried then
        fields[n + 7], fields[n + 8] = 'v', carried
      end
    end
    told, at = told + 1, after
  end
  return string.sub(waiters, at)
end

-- Whether some of these may not hear of it in this script: a line has at least two bytes.
local function has_many(waiters)
  if #waiters <= 2 * LIMIT.family_max then return false end
  local _, count = string.gsub(waiters, '\n', '')
  return count > LIMIT.family_max
end

-- Ends a pending promise: out of its place, settled, those who wait told, its family to be closed. `is_quiet` if nothing
-- it has asked for is pending.
local function finish(record, state, payload, is_quiet)
  leave(record)
  if record.deadline then unset_timer(record.id .. '~timeout') end
  put(record, F.state, state)
  put(record, F.settled, now_text)
  put(record, F.value, payload)
  drop(record, F.place)
  if (record.deaths or 0) > 0 then
    drop(record, F.deaths)
    drop(record, F.lone_deaths)
  end
  record.unseen = ''
  local waiters = record.waiters or ''
  local is_last = not has_many(waiters)
  if waiters ~= '' and is_last then drop(record, F.waiters) end
  save(record)
  record.waiters = waiters ~= '' and tell_waiters(record, waiters, state, payload) or ''
  if not is_last then
    put(record, F.waiters, record.waiters)
    save(record)
  end
  note_ending(record.id, state)
  local has_owner = string.find(record.id, '~', 1, true)
  if has_owner then kin().tell_owner(record, state, payload) end
  is_quiet = is_quiet and not record.family and record.waiters == ''
  if is_quiet and not has_owner then
    keep_for(record.key, retention_of(record.retention)) -- nothing of it is left to close
  else
    record.is_quiet, record.ended_now = is_quiet, true
    families[#families + 1] = record
  end
end
