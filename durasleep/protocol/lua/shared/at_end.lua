-- @include leave
-- @include timer
-- @include tell_inbox
-- @include recent

-- What a script gathers while it runs is written once, at its end.
local function write_gathered()
  write_timers()
  clear_queues()
  write_inboxes()
  write_recents()
end

local function at_end()
  write_gathered()
  tell_firers()
end
