-- Stores a schedule ("put"), changes it and starts its executions ("advance"), quarantines it by name if it cannot be
-- read ("aside"), or removes it ("remove"). The caller has read it and decided; a change names what the caller has seen,
-- so that only one of several workers starts an execution.
-- Answers per item: "kept" and when it is due; "advanced" and its revision; "aside", "stale", "removed" or "missing".
-- @include keys
-- @include each_item
-- @include make
-- @include schedule_form
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

-- Fields and values in turn; those with an empty value are removed.
local function write_fields(key, fields)
  local sets, gone = {}, {}
  for i = 1, #fields, 2 do
    if fields[i + 1] == '' then
      gone[#gone + 1] = fields[i]
    else
      sets[#sets + 1], sets[#sets + 2] = fields[i], fields[i + 1]
    end
  end
  in_chunks(gone, 'HDEL', key)
  in_chunks(sets, 'HSET', key)
end

local function fields_from(first, last)
  local fields = {}
  for i = first, last do
    fields[#fields + 1] = ARGV[i]
  end
  return fields
end

local function next_revision(revision)
  return int((tonumber(revision or '') or 0) + 1)
end

-- What was kept of a schedule. In the form of older versions it has no other fields: one of these has written it.
local function read_kept(key)
  local cron, zone, due, limit, remaining, paused, waiting, starting, revision = unpack(
    redis.call('HMGET', key, S.cron, S.zone, S.due, S.limit, S.remaining, S.paused, S.waiting, S.starting, S.revision)
  )
  local is_for_newer = is_newer_form(cron)
  return {
    times = is_for_newer and string.sub(cron, #NEWER + 1) or cron,
    zone = zone,
    due = tonumber(due or ''),
    limit = is_for_newer and limit or '',
    remaining = is_for_newer and remaining or '',
    paused = is_for_newer and paused or '',
    is_busy = is_for_newer and (waiting or starting) and true or false,
    is_for_newer = is_for_newer,
    revision = revision,
  }
end

-- The same times again, as every deployment sends them: the due time stays, however late it is.
local function keeps_due(kept, times, zone, limit, paused)
  if kept.times ~= times or kept.zone ~= zone or not kept.due then return false end
  if kept.paused ~= '' and paused == '0' then return false end -- what it has missed while it was paused is not made up for
  return kept.due < LIMIT.due_ms_max or (kept.limit == limit and kept.remaining == '0')
end

-- Refuses what cannot be started, before anything is written.
local function check_start(func, queue)
  local what = { func = func, queue = queue }
  complete(what)
  if what.needs_key then
    error(
      'NOT_ALLOWED function ' .. func .. ' has limit ' .. what.limit .. ', which counts by key: a schedule has none',
      0
    )
  end
  check_queue(what.queue)
end

-- `is_plain` if older versions can run it. `paused` is "1", "0", or empty to leave that as it is.
function actions.put(name, at, last)
  local due, times, zone, is_plain, limit, paused, func, queue, args = unpack(ARGV, at + 3, at + 11)
  local key, instant = schedule_prefix .. name, due_at(due)
  check_type(timers, 'zset')
  check_type(schedules, 'zset')
  check_start(func, queue)
  local kept = read_kept(key)
  if keeps_due(kept, times, zone, limit, paused) then instant = kept.due end
  local remaining = kept.limit == limit and kept.remaining or limit
  local since = paused == '' and kept.paused or paused == '1' and (kept.paused ~= '' and kept.paused or now_text) or ''
  local is_for_newer = is_plain == '' or since ~= '' or kept.is_busy
  if not kept.is_for_newer then redis.call('HDEL', key, S.running, S.waiting, S.starting) end
  redis.call('HSET', key, S.cron, (is_for_newer and NEWER or '') .. times, S.zone, zone, S.func, func, S.queue, queue)
  redis.call('HSET', key, S.args, args, S.due, int(instant))
  write_fields(key, fields_from(at + 12, last))
  write_fields(key, { S.limit, limit, S.remaining, remaining, S.paused, since })
  if is_for_newer or kept.revision then redis.call('HSET', key, S.revision, next_revision(kept.revision)) end
  end_quarantine(key, name)
  set_timer_of(name, is_for_newer, since ~= '' and LIMIT.due_ms_max or kept.is_busy and now or instant)
  return { 'kept', int(instant) }
end

-- `timer` says when to look at it again, empty for never. `is_exclusive` if the executions do not overlap: the last one
-- that is made here tells its schedule when it ends. `starts` is the number of ids to be started here; fields and values
-- follow them.
function actions.advance(name, at, last)
  local due, seen_due, seen_revision, timer, is_exclusive, starts = unpack(ARGV, at + 3, at + 8)
  local key = schedule_prefix .. name
  local kept = redis.call('HMGET', key, S.due, S.revision, S.cron, S.func, S.queue, S.args, S.retention, S.aside)
  local due_now, revision, cron, func, queue, args, retention, reason = unpack(kept, 1, 8)
  local was_newer = is_newer_form(cron)
  if not due_now then
    unset_timer(name .. '~cron')
    return { 'missing', '' }
  end
  if due_now ~= seen_due or (revision or '') ~= seen_revision then return { 'stale', '' } end
  local instant, look_at = due_at(due), timer ~= '' and due_at(timer)
  local count = tonumber(starts)
  if count > LIMIT.starts_max then error('INVALID ' .. count .. ' starts at a time', 0) end
  check_type(timers, 'zset')
  check_type(schedules, 'zset')
  if count > 0 then check_start(func, queue) end
  local made
  for i = at + 9, at + 8 + count do
    local id = ARGV[i]
    if redis.call('EXISTS', promise_prefix .. id) == 0 then
      local what = { kind = KIND.execution, func = func, queue = queue, args = args, retention = retention or '' }
      complete(what)
      if is_exclusive ~= '' then what.waiters = 's' .. name .. '\n' end
      if not (what.limit and refusal_of(id, what)) then -- else its limit has no room: this time is left out
        make(id, now_text, what)
        made = id
      end
    end
  end
  local fields = fields_from(at + 9 + count, last)
  local is_marked = #fields > 0 -- the caller marks it, if it was in the form of older versions
  local has_revision = is_marked or was_newer or revision
  fields[#fields + 1], fields[#fields + 2] = S.due, int(instant)
  if is_exclusive ~= '' and count > 0 then
    fields[#fields + 1], fields[#fields + 2] = S.running, made or ''
    if not made then look_at = now end -- nobody will tell it: the next one may start
  end
  if has_revision then
    revision = next_revision(revision)
    fields[#fields + 1], fields[#fields + 2] = S.revision, revision
  end
  write_fields(key, fields)
  if reason then end_quarantine(key, name) end
  set_timer_of(name, was_newer or is_marked, look_at or LIMIT.due_ms_max, was_newer)
  return { 'advanced', revision or '' }
end

-- A worker cannot read it, perhaps before it is due (`seen_due` is empty then). A person should know, and all other
-- workers check whether they can read it. A worker that was told in this way does not tell the others again.
function actions.aside(name, at)
  local reason, seen_due, was_offered = unpack(ARGV, at + 3, at + 5)
  local key = schedule_prefix .. name
  local due_now, cron = unpack(redis.call('HMGET', key, S.due, S.cron))
  if not due_now then return { 'missing' } end
  if seen_due ~= '' and due_now ~= seen_due then return { 'stale' } end
  if was_offered == '' then return { 'aside' } end
  end_quarantine(key, name)
  redis.call('HSET', key, S.aside, reason)
  quarantine(quarantined_name(name, reason))
  set_timer_of(name, is_newer_form(cron), now + ASIDE_MS)
  for_all[#for_all + 1] = 'c'
  for_all[#for_all + 1] = name
  return { 'aside' }
end

function actions.remove(name)
  end_quarantine(schedule_prefix .. name, name)
  local removed = redis.call('DEL', schedule_prefix .. name)
  if is_a(schedules, 'zset') then redis.call('ZREM', schedules, name) end
  unset_timer(name .. '~cron')
  return { removed == 1 and 'removed' or 'missing' }
end

local function schedule(at, size)
  local action, name = unpack(ARGV, at + 1, at + 2)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](name, at, at + size)
end

local answers = each_item(1, schedule)
at_end()
return answers
