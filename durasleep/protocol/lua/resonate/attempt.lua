-- @include resonate/at_end
-- @include text_of
local function run_and_write(run, ...)
  run(...)
  write_changes()
end

-- Does something for one of many promises. If it fails, the others go on, and nothing of it is written but what stood
-- before the write that failed. Answers what is wrong, if anything is.
local function attempt(run, ...)
  write_changes() -- what was done for others stays
  local is_done, problem = pcall(run_and_write, run, ...)
  if is_done then return end
  store.records, store.changed = {}, {}
  queue.changes, waiters.told, retention.changes, timer.changes = {}, {}, {}, {}
  return text_of(problem)
end
