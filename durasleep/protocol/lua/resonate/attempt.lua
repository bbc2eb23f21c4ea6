-- @include resonate/at_end
-- @include text_of
-- Does something for one of many promises. If it fails, nothing of it is written, and the others go on. Answers what is
-- wrong, if anything is.
local function attempt(run, ...)
  local is_done, problem = pcall(run, ...)
  if is_done then return write_changes() end
  store.records, store.changed = {}, {}
  queue.changes, retention.changes, timer.changes = {}, {}, {}
  return text_of(problem)
end
