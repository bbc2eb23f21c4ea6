-- Entries hear of what they have asked for in other partitions: that it has been begun, or how it has ended. It is
-- repeated until it was heard, so it may come twice, late, and in any order.
-- Answers per item: "heard", or "stale" if the entry does not wait for it (any more).
-- @include keys
-- @include each_item
-- @include kin
local SOON_MS = 60000 -- until the next question, if what was asked for goes on; as long again as it has taken so far
local LATE_MS = 3600000

-- `state` is that of the execution that was asked for; with `refused` none was begun, and `value` is the error.
local function hear(at)
  local entry_id, incarnation, child_id, state, refused, value = unpack(ARGV, at + 1, at + 6)
  local owner_id, number = owner_of(entry_id)
  if number == 'cron' then -- a schedule has started it
    end_scheduled(owner_id, child_id)
    return 'heard'
  end
  local member = entry_id .. '~ask'
  local owner = owner_id and load(owner_id, { number })
  local raw = owner and owner.state == STATE.pending and raw_of(owner, number)
  local entry = raw and read_entry(raw)
  if not (entry and is_foreign(raw, entry)) then
    unset_timer(member)
    return 'stale'
  end
  if owner.incarnation ~= incarnation or entry.child_id ~= child_id then return 'stale' end -- another one waits there
  local is_detached = entry.kind == KIND.detached
  if state == STATE.pending and not is_detached then
    local age = now - owner.incarnation - (tonumber(entry.stamp) or 0)
    set_timer(member, now + math.min(math.max(age, SOON_MS), LATE_MS))
    return 'heard'
  end
  unset_timer(member)
  if refused ~= '' then
    settle_entry(owner, number, entry, STATE.rejected, value)
  elseif is_detached then
    settle_entry(owner, number, entry, STATE.resolved, '')
  else
    settle_entry(owner, number, entry, state, value)
  end
  return 'heard'
end

local answers = each_item(1, hear)
at_end()
return answers
