-- @include leave
-- @include timer
-- @include notify_inbox
-- @include recent

-- A script gathers some writes while it runs, and makes them once, at its end.
local function write_gathered()
  write_timers()
  clear_queues()
  write_inboxes()
  write_recents()
  write_stats()
end

local function at_end()
  write_gathered()
  notify_firers()
end
