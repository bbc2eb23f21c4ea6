-- Settle at most `limit` timers that are due, oldest first, and close a part of what is left to close.
-- Answers: seconds and microseconds of the server's clock, how many were due, when the next is,
-- the last id of `wake`, how many were dropped as stale, schedules that are due, and what was put aside.
-- @include keys
-- @include finish
-- @include timer
local limit = unpack(ARGV, 1, 1)

-- Firing goes on while Redis is full: a first write that frees lets the rest pass.
redis.call('ZREM', timers, '')

local stale, crons, aside = 0, {}, {}

-- A deadline: force with state timedout. A timer on its own resolves.
local function fire_deadline(id, score)
  local record = load(id)
  if not record or record.state ~= STATE.pending or record.deadline ~= score then return false end
  if record.place == PLACE.queued then check_queue(record.queue) end
  redis.call('ZREM', timers, id .. '~timeout')
  finish(record, record.kind == KIND.timer and STATE.resolved or STATE.timedout, '')
  return true
end

-- A delayed start or the next attempt.
local function fire_delayed(id, score, member)
  local record = load(id)
  if not record or record.state ~= STATE.pending then return false end
  if record.place ~= PLACE.delayed or record.due ~= score then return false end
  check_queue(record.queue)
  redis.call('ZREM', timers, member)
  dispatch(record)
  save(record)
  return true
end

local function fire_entry(owner_id, number, score)
  local record = load(owner_id)
  if not record or record.state ~= STATE.pending then return false end
  local entry = read_entry(redis.call('HGET', record.key, number))
  if not entry or entry.state ~= STATE.pending or entry.due ~= score then return false end
  settle_entry(record, number, entry, entry.kind == KIND.timer and STATE.resolved or STATE.timedout, '')
  return true
end

local function fire_one(member, score)
  local id, what = owner_of(member)
  if not id then error('INVALID member', 0) end
  if what == 'cron' then
    -- Only a worker can read a cron line; until one has moved it on it is offered again every second.
    redis.call('ZADD', timers, int(now + 1000), member)
    crons[#crons + 1] = id
    return true
  end
  if what == 'timeout' then return fire_deadline(id, score) end
  if what == 'start' or what == 'retry' then return fire_delayed(id, score, member) end
  if string.find(what, '^%d') then return fire_entry(id, what, score) end
  error('INVALID member', 0)
end

-- The next part of the oldest family too large for one script.
local function drain_closing()
  local id = redis.call('ZRANGE', closing, 0, 0)[1]
  if not id then return end
  local record = load(id)
  local keep_ms = record and time_to_keep(record)
  if not keep_ms then
    redis.call('ZREM', closing, id)
    return
  end
  local cursor = redis.call('HGET', record.key, F.cursor) or '0'
  local part = redis.call('HSCAN', record.key, cursor, 'COUNT', LIMIT.family_max)
  for i = 1, #part[2], 2 do
    if string.find(part[2][i], '^%d') then close_member(record, part[2][i], part[2][i + 1], keep_ms) end
  end
  if part[1] == '0' then
    redis.call('ZREM', closing, id)
    redis.call('HDEL', record.key, F.cursor)
  else
    redis.call('HSET', record.key, F.cursor, part[1])
  end
end

local due = redis.call('ZRANGEBYSCORE', timers, '-inf', int(now), 'WITHSCORES', 'LIMIT', 0, limit)
for i = 1, #due, 2 do
  local member = due[i]
  local ok, fired = pcall(fire_one, member, int(tonumber(due[i + 1])))
  if not ok then
    local text = type(fired) == 'table' and fired.err or tostring(fired)
    aside[#aside + 1] = member .. ': ' .. text
    redis.call('ZREM', timers, member)
    redis.call('ZADD', halted, int(now), 'timers:' .. member .. ': ' .. text)
  elseif not fired then
    redis.call('ZREM', timers, member)
    stale = stale + 1
  end
end
drain_closing()
close_families()
tell_firers()

local first = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')
local last_wake = redis.call('XREVRANGE', wake, '+', '-', 'COUNT', 1)
return {
  clock[1], clock[2], #due / 2, first[2] and int(tonumber(first[2])) or '', last_wake[1] and last_wake[1][1] or '0-0',
  stale, crons, aside, redis.call('ZCARD', closing),
}
