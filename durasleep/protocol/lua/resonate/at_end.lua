-- @include resonate/store
-- @include resonate/timer
-- @include resonate/queue
-- @include resonate/waiters
-- @include resonate/retention
-- All that has changed is written at the end: a request with an error has changed nothing. Queues come first, because
-- one of another type is the likeliest to fail: a member of a queue without anything behind it does no harm.
local function write_changes()
  queue.write()
  store.save()
  waiters.write()
  retention.write()
  timer.write()
end

local function at_end()
  write_changes()
  timer.hint()
end
