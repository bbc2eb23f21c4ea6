-- Keep a cron schedule ("put"), start its next execution and move it on ("advance"), or forget it ("remove").
-- "advance" compares the due time the worker saw, so that of many workers one starts the execution.
-- Answers per item: "kept" and when it is due, "advanced", "stale", "removed" or "missing".
-- @include keys
-- @include each_item
-- @include make
-- @include at_end
local actions = {}

function actions.put(name, at)
  local due, cron, zone, func, queue, args, retention = unpack(ARGV, at + 3, at + 9)
  local key, instant = schedule_prefix .. name, due_at(due)
  check_type(timers, 'zset')
  -- The same line again, as every deploy says it: what is due stays due, however late it is.
  local kept = redis.call('HMGET', key, S.cron, S.zone, S.due)
  if kept[1] == cron and kept[2] == zone and tonumber(kept[3] or '') then instant = tonumber(kept[3]) end
  redis.call('HSET', key, S.cron, cron, S.zone, zone, S.func, func, S.queue, queue, S.args, args, S.due, int(instant))
  if retention ~= '' then
    redis.call('HSET', key, S.retention, retention)
  else
    redis.call('HDEL', key, S.retention)
  end
  set_timer(name .. '~cron', instant)
  return { 'kept', int(instant) }
end

function actions.advance(name, at)
  local due, seen_due, id = unpack(ARGV, at + 3, at + 5)
  local key = schedule_prefix .. name
  local kept = redis.call('HMGET', key, S.due, S.func, S.queue, S.args, S.retention)
  local due_now, func, queue, args, retention = unpack(kept, 1, 5)
  if not due_now then
    unset_timer(name .. '~cron')
    return { 'missing' }
  end
  if due_now ~= seen_due then return { 'stale' } end
  local instant = due_at(due)
  check_queue(queue)
  redis.call('HSET', key, S.due, int(instant))
  if redis.call('EXISTS', promise_prefix .. id) == 0 then
    make(id, now_text, { kind = KIND.execution, func = func, queue = queue, args = args, retention = retention })
  end
  set_timer(name .. '~cron', instant)
  return { 'advanced' }
end

function actions.remove(name)
  local removed = redis.call('DEL', schedule_prefix .. name)
  unset_timer(name .. '~cron')
  return { removed == 1 and 'removed' or 'missing' }
end

local function schedule(at)
  local action, name = unpack(ARGV, at + 1, at + 2)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](name, at)
end

local answers = each_item(1, schedule)
at_end()
return answers
