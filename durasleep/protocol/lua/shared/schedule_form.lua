-- @include timer
local NEWER = '= ' -- at the beginning of the times that workers of older versions must leave to newer ones

local function is_newer_form(cron)
  return cron and string.sub(cron, 1, #NEWER) == NEWER
end

-- When to look at a schedule, `LIMIT.due_ms_max` for never. Older versions look for theirs among the timers. All are
-- listed in `schedules`. `was_newer` if it has no timer there already.
local function set_timer_of(name, is_for_newer, due, was_newer)
  set_schedule_timer(name, is_for_newer and due or LIMIT.due_ms_max)
  if not is_for_newer and due < LIMIT.due_ms_max then
    set_timer(name .. '~cron', due)
  elseif not was_newer then
    unset_timer(name .. '~cron')
  end
end
