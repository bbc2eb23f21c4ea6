-- @include resonate/store
-- @include resonate/timer
-- @include resonate/queue
-- @include resonate/retention
-- All that has changed is written at the end: a request with an error has changed nothing.
local function write_changes()
  store.save()
  queue.write()
  retention.write()
  timer.write()
end

local function at_end()
  write_changes()
  timer.hint()
end
