-- Its timer need not be at its due time, which may be put off. One that is paused or has come to its end needs none,
-- unless an execution waits for its start.
local function check_schedule_timer(name, cron, due, is_paused, is_busy)
  local look_at = is_busy and now or tonumber(due) or now
  if is_paused or look_at >= LIMIT.due_ms_max then look_at = LIMIT.due_ms_max end
  local is_for_newer = is_newer_form(cron)
  local score
  if is_for_newer then
    score = redis.call('ZSCORE', schedules, name)
  else
    score = redis.call('ZSCORE', timers, name .. '~cron')
  end
  if score and (tonumber(score) < LIMIT.due_ms_max or look_at == LIMIT.due_ms_max) then return end
  if not is_for_newer and look_at == LIMIT.due_ms_max then return end
  found('untimed', name .. '~cron', 'is a schedule without a timer', function()
    set_timer_of(name, is_for_newer, look_at)
  end)
end

function checks.schedule(name)
  local key = schedule_prefix .. name
  local kept = redis.call('HMGET', key, S.cron, S.due, S.paused, S.running, S.waiting, S.starting)
  local cron, due, paused, running, waiting, starting = unpack(kept, 1, 6)
  if not due then return '' end
  if not is_newer_form(cron) then
    paused, running, waiting, starting = false, false, false, false -- of an older version: it knows no such fields
  end
  check_schedule_timer(name, cron, due, paused, starting or (waiting and not running))
  local ended = waiting and not paused and running and load(running) -- in another partition, it tells its schedule
  if ended and ended.state ~= STATE.pending and not is_closing(running) then
    found('untold', 'schedule:' .. name, 'waits for ' .. running .. ', which has ended', function()
      kin().end_scheduled(name, running)
    end)
  end
  return ''
end
