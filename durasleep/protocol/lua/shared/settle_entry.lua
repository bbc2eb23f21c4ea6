-- @include journal
-- @include dispatch
-- @include holder
-- @include notify_inbox
-- @include receives

-- Wakes a waiting execution; a running one gets only a hint.
local function rouse(record, snapshot_of)
  if record.place == PLACE.suspended then
    dispatch(record, snapshot_of and snapshot_of(record))
  elseif record.place == PLACE.queued then
    local held_by = holder(record)
    if held_by then
      local fields = hints_for(held_by, #record.id)
      fields[#fields + 1] = 'n'
      fields[#fields + 1] = record.id
    end
  end
end

-- Entry `number` of a pending execution settles, and its owner is notified. `snapshot_of` answers the data for its
-- stream entry, see `dispatch`.
local function settle_entry(record, number, entry, state, payload, snapshot_of)
  if entry.due ~= '' then unset_timer(record.id .. '~' .. number) end
  if entry.kind == KIND.receive then receives.remove(record, number) end
  entry.due = entry.stamp -- when it began
  journal(record, number, entry, state, payload)
  rouse(record, snapshot_of)
  save(record)
end
