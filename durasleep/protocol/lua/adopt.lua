-- A namespace gets what has left another one. A promise is written in parts under a name that nobody reads, "fill",
-- "waiters", "view" and "mail". With its last part, "adopt", it gets its own name, its place, its timers and its expiry, all at once.
-- Answers per item: "adopted", or "known" if it is here already, or "other" and its function if another promise has this
-- id; "filled", "awaited", "viewed" or "timed" for what is a part only.
-- @include keys
-- @include each_item
-- @include load
-- @include schedule_form
-- @include dispatch
-- @include gates
-- @include functions
-- @include at_end
local ARRIVING_MS = 3600000 -- how long a part is kept whose other parts do not come
local arriving_prefix = string.match(timers, '^{[^}]*}:') .. 'arriving:promise:'
local actions = {}

local function values_from(first, last)
  local values = {}
  for i = first, last do
    values[#values + 1] = ARGV[i]
  end
  return values
end

-- Members and due times in turn.
local function set_timers(first, last)
  for i = first, last, 2 do
    set_timer(ARGV[i], tonumber(ARGV[i + 1]))
  end
end

-- Some fields; the first part begins anew, whatever an interrupted move has left.
function actions.fill(id, at, last)
  local is_first = ARGV[at + 3]
  local key = arriving_prefix .. id
  if is_first ~= '' then redis.call('UNLINK', key) end
  in_chunks(values_from(at + 4, last), 'HSET', key)
  redis.call('PEXPIRE', key, ARRIVING_MS)
  return 'filled'
end

-- Some members of the set of its waiters.
function actions.waiters(id, at, last)
  in_chunks(values_from(at + 3, last), 'SADD', waiters_prefix .. id)
  return 'awaited'
end

-- What it publishes. It expires with it, as soon as that is there.
function actions.view(id, at, last)
  local key = near(NEAR.view .. id)
  in_chunks(values_from(at + 3, last), 'HSET', key)
  redis.call('PEXPIRE', key, ARRIVING_MS)
  return 'viewed'
end

-- A part of its mailbox.
function actions.mail(id, at, last)
  local key = near(NEAR.mail .. id)
  in_chunks(values_from(at + 3, last), 'HSET', key)
  redis.call('PEXPIRE', key, ARRIVING_MS)
  return 'mailed'
end

-- The remaining ms of a key, as PTTL says them.
local function set_expiry(key, ttl_ms)
  redis.call('PERSIST', key)
  if tonumber(ttl_ms) >= 0 then redis.call('PEXPIRE', key, math.max(tonumber(ttl_ms), 1)) end
end

-- Where it was; an execution that was queued, or run by a worker, is queued anew. What has ended is in no place.
local function put_in_place(record, halted_at)
  local is_parked = record.place == PLACE.parked
  if record.limit then gates().arrive(record, is_parked or record.place == PLACE.queued) end
  if record.place == PLACE.queued or is_parked then
    dispatch(record)
    save(record)
  elseif record.place == PLACE.halted then
    redis.call('ZADD', halted, halted_at ~= '' and halted_at or now_text, record.id)
  end
end

-- Two promises are the same one if they began at one time and by one call.
local function origin_of(record)
  return record.incarnation .. ' ' .. (record.idempotency_key or '')
end

-- `size` is the number of all its fields, and `timer_words` twice the number of the timers that follow; the last fields
-- are behind them.
function actions.adopt(id, at, last)
  local origin, size, ttl_ms, halted_at, is_closing, timer_words = unpack(ARGV, at + 3, at + 8)
  local key, first = arriving_prefix .. id, at + 9
  local found = load(id)
  if found then
    redis.call('UNLINK', key)
    -- Written again, so that whoever waits until replicas have this call knows that they have the promise, too.
    redis.call('HSET', found.key, F.incarnation, found.incarnation)
    return { origin_of(found) == origin and 'known' or 'other', found.func }
  end
  check_type(timers, 'zset')
  check_type(halted, 'zset')
  check_type(closing, 'zset')
  local fields = values_from(first + timer_words, last)
  if #fields == 2 * size then redis.call('UNLINK', key) end -- all of it
  in_chunks(fields, 'HSET', key)
  if redis.call('HLEN', key) ~= tonumber(size) then
    redis.call('UNLINK', key)
    error('NOT_ALLOWED two moves wrote ' .. id .. ' at a time: run one again', 0)
  end
  redis.call('RENAME', key, promise_prefix .. id)
  local record = load(id)
  put_in_place(record, halted_at)
  if is_closing ~= '' then redis.call('ZADD', closing, now_text, id) end
  set_timers(first, first + timer_words - 1)
  if record.kind == KIND.execution then
    declared_of(record.func)
    if indexed then
      local labels = redis.call('HGET', record.key, F.labels)
      add_to_index(indexed, id, record.func, labels, record.created or record.incarnation)
    end
  end
  set_expiry(record.key, ttl_ms)
  if record.extras and string.find(record.extras, 'm', 1, true) then redis.call('PERSIST', near(NEAR.mail .. id)) end
  if record.extras and string.find(record.extras, 'v', 1, true) then set_expiry(near(NEAR.view .. id), ttl_ms) end
  return { 'adopted', record.func }
end

-- More of its timers.
function actions.time(_, at, last)
  set_timers(at + 3, last)
  return 'timed'
end

function actions.schedule(name, at, last)
  local key = schedule_prefix .. name
  if redis.call('EXISTS', key) == 1 then return { 'known', '' } end
  check_type(timers, 'zset')
  check_type(schedules, 'zset')
  in_chunks(values_from(at + 4, last), 'HSET', key)
  local cron, paused, waiting, starting = unpack(redis.call('HMGET', key, S.cron, S.paused, S.waiting, S.starting))
  local look_at = (waiting or starting) and now or tonumber(ARGV[at + 3])
  set_timer_of(name, is_newer_form(cron), paused and LIMIT.due_ms_max or look_at)
  return { 'adopted', '' }
end

local function adopt(at, size)
  local action, id = unpack(ARGV, at + 1, at + 2)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](id, at, at + size)
end

local answers = each_item(1, adopt)
at_end()
return answers
