-- @include entry
-- @include record
-- @include now

-- Note that entry `number` has settled: its execution has not seen it yet. Its stamp is a new one: two histories of one
-- execution never share one.
local function journal(record, number, entry, state, payload)
  record.order = math.max(record.order + 1, now)
  entry.state, entry.stamp = state, int(record.order)
  put(record, F.order, entry.stamp)
  put_entry(record, number, write_entry(entry, payload))
  record.unseen = record.unseen .. number .. ' '
end
