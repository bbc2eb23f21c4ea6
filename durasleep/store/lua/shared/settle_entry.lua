-- @include entry
-- @include dispatch
-- @include holder
-- @include tell_inbox

-- A new order stamp: two histories of one execution never share one.
local function stamp(record)
  record.order = math.max(record.order + 1, now)
  put(record, F.order, int(record.order))
  return int(record.order)
end

-- Note that entry `number` has settled: its execution has not seen it yet.
local function journal(record, number, entry, state, payload)
  entry.state, entry.stamp = state, stamp(record)
  put_entry(record, number, write_entry(entry, payload))
  record.unseen = record.unseen .. number .. ' '
  put(record, F.unseen, record.unseen)
end

-- Wakes an execution that waits; one that runs gets a nudge, which is only a hint.
local function rouse(record)
  if record.place == PLACE.suspended then
    dispatch(record)
  elseif record.place == PLACE.queued then
    local consumer = holder(record)
    if consumer then tell_inbox(consumer, 'n', record.id) end
  end
end

-- Entry `number` of a pending execution settles, and its owner hears of it.
local function settle_entry(record, number, entry, state, payload)
  if entry.due ~= '' then unset_timer(record.id .. '~' .. number) end
  if entry.kind == KIND.timer then entry.due = '' end -- its stamp says as much
  journal(record, number, entry, state, payload)
  rouse(record)
  save(record)
end
