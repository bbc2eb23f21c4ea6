-- Stores a cron schedule ("put"), starts its next execution and sets the next due time ("advance"), quarantines it by
-- name if it cannot be read ("aside"), or removes it ("remove"). A change of the due time compares the one that the
-- worker has seen, so that only one of several workers starts the execution.
-- Answers per item: "kept" and when it is due, "advanced", "aside", "stale", "removed" or "missing".
-- @include keys
-- @include each_item
-- @include make
-- @include at_end
local ASIDE_MS = 60000 -- until it is offered again
local actions = {}

local function quarantined_name(name, reason)
  return 'schedule:' .. name .. ': ' .. reason
end

-- It can be read, or is gone: nobody needs to look at it any more.
local function end_quarantine(key, name)
  local reason = redis.call('HGET', key, S.aside)
  if not reason then return end
  redis.call('HDEL', key, S.aside)
  if is_a(halted, 'zset') then redis.call('ZREM', halted, quarantined_name(name, reason)) end
end

function actions.put(name, at)
  local due, cron, zone, func, queue, args, retention = unpack(ARGV, at + 3, at + 9)
  local key, instant = schedule_prefix .. name, due_at(due)
  check_type(timers, 'zset')
  -- The same line again, as every deployment sends it: the due time stays, however late it is.
  local kept = redis.call('HMGET', key, S.cron, S.zone, S.due)
  if kept[1] == cron and kept[2] == zone and tonumber(kept[3] or '') then instant = tonumber(kept[3]) end
  redis.call('HSET', key, S.cron, cron, S.zone, zone, S.func, func, S.queue, queue, S.args, args, S.due, int(instant))
  if retention ~= '' then
    redis.call('HSET', key, S.retention, retention)
  else
    redis.call('HDEL', key, S.retention)
  end
  end_quarantine(key, name)
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
  local what = { kind = KIND.execution, func = func, queue = queue, args = args, retention = retention or '' }
  complete(what)
  check_queue(what.queue)
  redis.call('HSET', key, S.due, int(instant))
  if id ~= '' and redis.call('EXISTS', promise_prefix .. id) == 0 then -- empty: it was started in its own partition
    make(id, now_text, what)
  end
  end_quarantine(key, name)
  set_timer(name .. '~cron', instant)
  return { 'advanced' }
end

-- A worker cannot read it, perhaps before it is due (`seen_due` is empty then). A person should know, and all other
-- workers check whether they can read it. A worker that was told in this way does not tell the others again.
function actions.aside(name, at)
  local reason, seen_due, was_offered = unpack(ARGV, at + 3, at + 5)
  local key = schedule_prefix .. name
  local due_now = redis.call('HGET', key, S.due)
  if not due_now then return { 'missing' } end
  if seen_due ~= '' and due_now ~= seen_due then return { 'stale' } end
  if was_offered == '' then return { 'aside' } end
  end_quarantine(key, name)
  redis.call('HSET', key, S.aside, reason)
  quarantine(quarantined_name(name, reason))
  set_timer(name .. '~cron', now + ASIDE_MS)
  for_all[#for_all + 1] = 'c'
  for_all[#for_all + 1] = name
  return { 'aside' }
end

function actions.remove(name)
  end_quarantine(schedule_prefix .. name, name)
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
