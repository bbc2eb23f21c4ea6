-- Settles at most `limit` due timers, oldest first, and closes a part of the families that are still to be closed.
-- Answers: seconds and microseconds of the server's clock, how many timers were due, when the next is due, the last id
-- of `wake`, how many were dropped as stale, the due schedules, the quarantined names, how many families are still to
-- be closed, how many due timers only a newer version knows, what is to be asked of other partitions, what is to be told
-- to them, whether more schedules are due, when the oldest of the timers that were settled was due, and how many executions
-- have ended, as function with state, and count. At most `schedules_max` schedules are answered beside those of the timers.
-- @include keys
-- @include kin
-- @include foreign_waiters
-- @include mailbox
-- @include run
-- @include last_id
-- @include refusal
-- @include snapshot
local limit, latest, resend_ms, schedules_max = unpack(ARGV, 1, 4)

-- Firing goes on while Redis is full: a first write that frees memory lets the others pass.
redis.call('ZREM', timers, '')

local NAME_BYTES_MAX = 1000 -- of a member that durasleep has not made
local stale, crons, quarantined = 0, {}, {}
local NEWER_LATER_MS = 10000
local asks, tells = {}, {}
local newer, newer_count = {}, 0 -- timers that stay as they are, for a newer version; how many it knows in all

-- Settled, gone, or of another incarnation: nobody waits for it.
local function forget(member)
  unset_timer(member)
  stale = stale + 1
end

-- Somebody else has moved the member: the due time of the promise holds.
local function is_moved(member, score, due)
  if due == score then return false end
  if not tonumber(due) then error('CORRUPT due time ' .. due, 0) end
  if tonumber(due) == tonumber(score) then return false end
  set_timer(member, tonumber(due))
  stale = stale + 1
  return true
end

local is_number = {} -- whether a field is a journal entry

-- If the owner of a timer has a small hash, the hash is read whole: its first activation after the wake-up needs it,
-- and its stream entry can carry it.
local function load_waiting(id, number)
  local key = promise_prefix .. id
  local size = bytes_left > 0 and redis.pcall('HLEN', key)
  if type(size) ~= 'number' or size > LIMIT.snapshot_fields_max then return load(id, { number }) end
  -- Made with room for the usual number of fields: Lua doubles a growing table again and again.
  local known = {
    [F.place] = false,
    [F.epoch] = false,
    [F.func] = false,
    [F.args] = false,
    [F.incarnation] = false,
    [F.idempotency_key] = false,
    [F.waiters] = false,
    [F.order] = false,
    [F.unseen] = false,
  }
  local found, numbers, bytes = redis.call('HGETALL', key), {}, 0
  for i = 1, #found, 2 do
    local name = found[i]
    known[name] = found[i + 1]
    bytes = bytes + #found[i + 1]
    local is_entry = is_number[name]
    if is_entry == nil then
      is_entry = string.byte(name) <= 57
      is_number[name] = is_entry
    end
    if is_entry then numbers[#numbers + 1] = name end
  end
  spend(bytes, 0)
  if known[F.unquoted] then return load(id, { number }) end
  local place, epoch, order = known[F.place], tonumber(known[F.epoch] or '0'), tonumber(known[F.order] or '0')
  local is_common = (place == PLACE.suspended or place == PLACE.delayed)
    and known[F.func]
    and known[F.args]
    and known[F.incarnation]
    and not known[F.kind] -- only an execution has none
  if not (is_common and epoch and order) then return load(id, { number }) end
  local unseen, trace = known[F.unseen] or '', known[F.trace]
  if known[F.trace_now] then trace = (trace or '') .. ' ' .. known[F.trace_now] end
  return {
    id = id,
    key = key,
    known = known,
    numbers = numbers,
    state = STATE.pending,
    place = place,
    queue = known[F.queue] or DEFAULT.queue,
    incarnation = known[F.incarnation],
    epoch = epoch,
    due = known[F.due],
    labels = known[F.labels],
    trace = trace,
    limit = known[F.limit],
    order = order,
    unseen = unseen,
    saved_unseen = unseen,
  }
end

local function snapshot_of(record)
  return record.numbers and snapshot_of_known(record, record.known, record.numbers)
end

-- A deadline: force with state timedout. A timer without an owner resolves.
local function fire_deadline(id, score, member)
  local record = load(id)
  if not record or record.state ~= STATE.pending or not record.deadline then return forget(member) end
  if is_moved(member, score, record.deadline) then return end
  finish(record, record.kind == KIND.timer and STATE.resolved or STATE.timedout, '')
end

-- A delayed start or the next attempt.
local function fire_delayed(id, score, member, is_start)
  local record = load_waiting(id)
  if not record or record.state ~= STATE.pending then return forget(member) end
  check_known(record)
  if record.place ~= PLACE.delayed or not record.due then return forget(member) end
  if is_moved(member, score, record.due) then return end
  record.begins = is_start
  leave(record)
  dispatch(record, snapshot_of(record))
  save(record)
end

-- A pending timer without a name, the most frequent kind: the same as reading its entry would give.
local function unnamed_timer(due)
  return { kind = KIND.timer, state = STATE.pending, stamp = '', due = due, name = '', child_id = '' }
end

local function fire_entry(owner_id, number, score, member)
  local record = load_waiting(owner_id, number)
  if not record or record.state ~= STATE.pending then return forget(member) end
  local raw = raw_of(record, number)
  local entry = raw == timer_entry('', score, '') and unnamed_timer(score) or read_entry(raw)
  if raw and not entry then error('CORRUPT journal entry ' .. member, 0) end
  if not entry or entry.state ~= STATE.pending or entry.due == '' then return forget(member) end
  if is_moved(member, score, entry.due) then return end
  if entry.kind ~= KIND.timer and entry.kind ~= KIND.promise and entry.kind ~= KIND.receive then
    raise_newer(member .. ' is an entry of kind ' .. entry.kind)
  end
  local state = entry.kind == KIND.timer and STATE.resolved or STATE.timedout
  settle_entry(record, number, entry, state, '', snapshot_of)
end

local fire_elsewhere = {} -- what concerns other partitions, by the kind of the timer
do
  local TELLS_MAX = 64 -- waiters of one ending that are told at a time
  local TOLD_BYTES_MAX = 65536 -- a larger value is read by whoever tells it

  local function due_again(member)
    set_timer(member, now + tonumber(resend_ms))
  end

  -- A call to another partition is asked again and again until its entry has settled: the question may be lost, and so may
  -- the answer.
  function fire_elsewhere.ask(entry_id, member)
    local owner_id, number = owner_of(entry_id)
    local found = redis.pcall('HMGET', promise_prefix .. (owner_id or ''), F.state, F.incarnation, number or '')
    if found.err then error('CORRUPT ' .. promise_prefix .. owner_id .. ' is not a promise', 0) end
    local entry = read_entry(found[3] or nil)
    if found[1] or not (entry and is_foreign(found[3], entry)) then return forget(member) end
    if not ENTRIES[entry.kind] then raise_newer(entry_id .. ' is an entry of kind ' .. entry.kind) end
    due_again(member)
    if is_spent() then return end
    local body = string.sub(found[3], entry.body)
    spend(#body, 1)
    asks[#asks + 1] = { entry_id, found[2], entry.child_id, entry.kind, entry.name, body }
  end

  -- An ending is told to other partitions again and again until they have heard of it.
  fire_elsewhere['tell'] = function(id, member)
    local record = load(id)
    if not record or record.state == STATE.pending then return forget(member) end
    local waiters = foreign_waiters(record, TELLS_MAX)
    if #waiters == 0 then return forget(member) end
    due_again(member)
    if is_spent() then return end
    local value = redis.call('HGET', record.key, F.value) or ''
    local is_small = #value <= TOLD_BYTES_MAX
    spend(is_small and #value or 0, 1)
    tells[#tells + 1] =
      { id, record.incarnation, record.state, is_small and '1' or '', is_small and value or '', waiters }
  end

  -- The same for what was sent to an execution from other partitions, also when it has ended.
  function fire_elsewhere.mail(id, member)
    local count = 0
    local again_at = mailbox.sweep(id, now + tonumber(resend_ms), function(waiter, state, letter)
      if count == TELLS_MAX or is_spent() then return end
      count = count + 1
      spend(0, 1)
      tells[#tells + 1] = { id, '', state, '1', letter, { waiter } }
    end)
    if not again_at then return forget(member) end
    set_timer(member, again_at)
  end
end

-- What a limit has left to do: for a key, for all keys, or for an execution that has made room for a newer one.
local function fire_gate(id, what, member)
  if what == 'replaced' then
    unset_timer(member)
    local record = load(id)
    if record and gates().is_replaced(record) then finish(record, STATE.canceled, '') end
    return
  end
  local name, key = string.match(id, '^([^/]+)/(.*)$')
  if not name then error('INVALID member', 0) end
  if what == 'gate' then
    gates().open_key(name, key)
  else
    gates().open_all(name)
  end
end

local function fire_one(member, score)
  local id, what = string.match(member, '^(.+)~([^~]+)$')
  if not id then error('INVALID member', 0) end
  if what == 'cron' then
    if redis.call('EXISTS', schedule_prefix .. id) == 0 then return forget(member) end
    -- Only a worker can read a cron line. Until a worker has set the next due time, it is offered again every second.
    set_timer(member, now + 1000)
    crons[#crons + 1] = id
  elseif what == 'timeout' then
    fire_deadline(id, score, member)
  elseif what == 'start' or what == 'retry' then
    fire_delayed(id, score, member, what == 'start')
  elseif what == 'gate' or what == 'gates' or what == 'replaced' then
    fire_gate(id, what, member)
  elseif fire_elsewhere[what] then
    fire_elsewhere[what](id, member)
  elseif string.find(what, '^%d[%d.]*$') then
    fire_entry(id, what, score, member)
  else
    raise_newer(member .. ' is a timer of kind ' .. what)
  end
end

-- A newer version settles it as soon as it looks. If many timers wait for that, they make room for the others.
local function leave_to_newer(member)
  newer_count = newer_count + 1
  if newer_count > limit / 2 then return set_timer(member, now + NEWER_LATER_MS) end
  newer[member] = true
end

-- The next part of what one ending has left to do: first the waiters, then the family, last the expiry. Answers whether
-- that was all.
local function close_part(id)
  local record = load(id)
  if not record then
    local _, what = owner_of(id)
    if what and not string.find(what, '^%d') then raise_newer(id .. ' is to be closed') end
    return true
  end
  if record.state == STATE.pending then
    if is_orphan(record) then finish(record, STATE.canceled, '') end
    return true
  end
  local keep_ms, left = time_to_keep(record), record.waiters or ''
  if left ~= '' then
    local value = redis.call('HGET', record.key, F.value) or ''
    spend(#value, 0)
    local foreign
    left, foreign = notify_waiters(record, left, record.state, value)
    keep_waiters(record, left, foreign)
    save(record)
    if left ~= '' and is_spent() then return false end
  end
  local cursor = close_from(record, record.key, redis.call('HGET', record.key, F.cursor) or '0', keep_ms)
  if cursor ~= '0' then
    redis.call('HSET', record.key, F.cursor, cursor)
    return false
  end
  redis.call('HDEL', record.key, F.cursor)
  if not record.is_untold then keep_for(record, keep_ms) end
  if left ~= '' then raise_newer(id .. ' is waited for in another way') end
  if not record.is_untold then redis.call('HDEL', record.key, F.waiters) end
  return true
end

-- Oldest first, several small ones at a time.
local function drain_closing()
  if not is_a(closing, 'zset') then return end
  for _, id in ipairs(redis.call('ZRANGE', closing, 0, LIMIT.closing_max - 1)) do
    if is_spent() then return end
    local owner_id, what = owner_of(id)
    local ok, done = pcall(what == 'run' and close_run or close_part, what == 'run' and owner_id or id)
    if ok and done then
      redis.call('ZREM', closing, id)
    elseif ok then
      redis.call('ZADD', closing, now_text, id) -- the other families come before its next part
    elseif is_newer(done) then
      close_newer_later(id)
    else
      raise_refusal(done)
      quarantine('closing:' .. id .. ': ' .. text_of(done))
      redis.call('ZREM', closing, id)
    end
    spend(0, 1)
  end
end

-- How many families are left that this version can close.
local function count_closing()
  if not is_a(closing, 'zset') then return 0 end
  local count = redis.call('ZCARD', closing)
  if count == 0 then return 0 end
  return count - #redis.call('ZRANGEBYSCORE', closing, LIMIT.closing_newer, '+inf')
end

-- What ends here, no worker commits: the caller counts it.
local endings, count_in_stats = {}, count_ending
function count_ending(func, state, created)
  local field = func .. '\t' .. state
  endings[field] = (endings[field] or 0) + 1
  count_in_stats(func, state, created)
end

local function list_endings()
  local list = {}
  for field, count in pairs(endings) do
    list[#list + 1], list[#list + 2] = field, count
  end
  return list
end

-- No timer is due by a clock that the caller does not accept.
local due, is_accepted = {}, latest == '' or now <= tonumber(latest)
if is_accepted then due = redis.call('ZRANGEBYSCORE', timers, '-inf', now_text, 'WITHSCORES', 'LIMIT', 0, limit) end
local oldest
for i = 1, #due, 2 do
  local member = due[i]
  local ok, problem = pcall(fire_one, member, due[i + 1])
  if ok then
    oldest = oldest or due[i + 1]
  elseif is_newer(problem) then
    leave_to_newer(member)
  else
    raise_refusal(problem)
    local line = string.sub(member, 1, NAME_BYTES_MAX) .. ': ' .. text_of(problem)
    quarantined[#quarantined + 1] = line
    unset_timer(member)
    quarantine('timers:' .. line)
  end
end
-- Until a worker has set the next due time of a schedule, it is offered again every second.
local due_schedules, fits, found = {}, is_a(schedules, 'zset')
local has_schedules = fits and found ~= 'none'
if is_accepted and schedules_max ~= '0' and has_schedules then
  due_schedules = redis.call('ZRANGEBYSCORE', schedules, '-inf', now_text, 'LIMIT', 0, schedules_max)
  for _, name in ipairs(due_schedules) do
    set_schedule_timer(name, now + 1000)
    crons[#crons + 1] = name
  end
end
local has_more_schedules = has_schedules and #due_schedules >= tonumber(schedules_max)
drain_closing()
close_families()
write_gathered() -- no firer is told: the calling one gets the next due time in the answer

-- When the next timer is due, without those that stay for a newer version, or the next schedule. Those that are due and
-- were too many are asked for when there is room.
local function next_due()
  local earliest
  local first = redis.call('ZRANGE', timers, 0, newer_count, 'WITHSCORES')
  for i = 1, #first, 2 do
    if not newer[first[i]] then
      earliest = math.min(tonumber(first[i + 1]), LIMIT.due_ms_max)
      break
    end
  end
  if not has_schedules then return earliest and int(earliest) or '' end
  local from = has_more_schedules and '(' .. now_text or '-inf'
  local last = '(' .. LIMIT.due_ms_max
  local scheduled = redis.call('ZRANGEBYSCORE', schedules, from, last, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if scheduled then earliest = math.min(earliest or tonumber(scheduled), tonumber(scheduled)) end
  return earliest and int(earliest) or ''
end

return {
  clock[1],
  clock[2],
  #due / 2,
  next_due(),
  last_id(wake),
  stale,
  crons,
  quarantined,
  count_closing(),
  newer_count,
  asks,
  tells,
  has_more_schedules and 1 or 0,
  oldest or '',
  list_endings(),
}
