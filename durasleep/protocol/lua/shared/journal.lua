-- @include entry
-- @include record
-- @include now
-- How an execution learns of every settlement, although its code may run meanwhile or sleep:
--
-- A settlement adds the number of its entry to `unseen`, and stamps the entry with an order newer than all before. It
-- wakes a sleeping execution. If the execution runs, its worker only gets a hint, which may be lost.
--
-- Every commit names the newest settlement that the code has seen. The numbers up to that one are removed from
-- `unseen`, and the commit answers the others. A commit that would suspend the execution suspends it only if nothing is
-- left. So nothing can settle unnoticed between the last look of the code and its sleep: one script does both.

-- Notes that entry `number` has settled: its execution has not seen it yet. Its stamp is a new one: two histories of
-- one execution never share a stamp.
local function journal(record, number, entry, state, payload)
  record.order = math.max(record.order + 1, now)
  entry.state, entry.stamp = state, int(record.order)
  put(record, F.order, entry.stamp)
  put_entry(record, number, write_entry(entry, payload))
  record.unseen = record.unseen .. number .. ' '
end
