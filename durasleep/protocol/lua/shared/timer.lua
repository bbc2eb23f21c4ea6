-- @include now
-- @include check_type
-- @include in_chunks
local timer_changes = {} -- member -> its due time, or false to remove it: written at the end, in two commands
local earliest_made

local function set_timer(member, due)
  timer_changes[member] = due
end

local function unset_timer(member)
  timer_changes[member] = false
end

local schedule_changes = {} -- name -> when to look at it

-- The timer of a schedule that older versions cannot run: beside the timers, which must not wait for thousands of
-- schedules.
local function set_schedule_timer(name, due)
  schedule_changes[name] = due
end

local function write_schedule_timers()
  local made, count, earliest = {}, 0, LIMIT.due_ms_max
  for name, due in pairs(schedule_changes) do
    made[count + 1], made[count + 2] = int(due), name
    count = count + 2
    if due < earliest then earliest = due end
  end
  schedule_changes = {}
  if earliest < LIMIT.due_ms_max then
    local first = redis.call('ZRANGEBYSCORE', schedules, '(' .. now_text, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[2] or earliest < tonumber(first[2]) then
      earliest_made = math.min(earliest_made or earliest, earliest)
    end
  end
  in_chunks(made, 'ZADD', schedules)
end

-- Once, at the end of a script. It answers nothing; for `notify_firers` it keeps whether a new timer is the earliest of
-- all.
local function write_timers()
  local gone, gone_count, made, made_count, earliest = {}, 0, {}, 0, nil
  for member, due in pairs(timer_changes) do
    if due then
      made[made_count + 1], made[made_count + 2] = int(due), member
      made_count = made_count + 2
      if not earliest or due < earliest then earliest = due end
    else
      gone_count = gone_count + 1
      gone[gone_count] = member
    end
  end
  timer_changes = {}
  in_chunks(gone, 'ZREM', timers)
  if earliest then
    -- A timer that is due already may stay for a newer version.
    local first = redis.call('ZRANGEBYSCORE', timers, '(' .. now_text, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    if not first[2] or earliest < tonumber(first[2]) then
      earliest_made = math.min(earliest_made or earliest, earliest)
    end
  end
  in_chunks(made, 'ZADD', timers)
  if next(schedule_changes) then write_schedule_timers() end
end

local for_all = {} -- messages for every worker, as names and values in turn: one entry, because `wake` has only one

-- The firers wait for an earlier instant now. Only a hint.
local function notify_firers()
  if earliest_made then
    for_all[#for_all + 1] = 'd'
    for_all[#for_all + 1] = int(earliest_made)
  end
  if #for_all > 0 and is_a(wake, 'stream') then redis.call('XADD', wake, 'MAXLEN', '1', '*', unpack(for_all)) end
end
