local notes = {}

-- The time of a schedule has passed: only the first of several callers that say so is heard.
function notes.advance(id, due, next_due, last)
  local key = schedules.key(id)
  if redis.call('HGET', key, RS.due) ~= due then return end
  redis.call('HSET', key, RS.due, next_due, RS.last, last)
  timer.arm('c' .. id, tonumber(next_due))
end

-- A promise of another partition has settled. It is said until it was heard, so it may come twice.
function notes.settled(awaiter, awaited)
  promises.touch(awaiter)
  promises.resume(awaiter, awaited)
end

function notes.told(awaiter, awaited)
  timer.disarm('x' .. awaiter .. '\0' .. awaited)
end

-- Whoever is offered a schedule makes its promises. If that one dies, the next is offered it.
local function offer(id)
  local schedule = schedules.load(id)
  if not schedule then
    timer.disarm('c' .. id)
    return nil
  end
  timer.arm('c' .. id, now + SCHEDULE_SOON_MS)
  return {
    id,
    schedule[RS.due],
    schedule[RS.cron],
    schedule[RS.promise_id],
    schedule[RS.timeout],
    payload.json(schedule[RS.param]),
    tags.json(schedule[RS.tags], '', schedule[RS.target]),
  }
end

-- The lease has ended, or nobody has taken the task that a message was about.
local function look_again(id, member)
  local record = promises.touch(id)
  if not record or not store.is_pending(record) then
    timer.disarm(member)
  elseif record[R.task] == 'a' then
    lease.release(record)
  else
    timer.disarm(member)
    if record[R.task] == 'p' then queue.send(record) end
  end
end

local function notify_others(id, member)
  local record = store.load(id)
  if record and record[R.waiters] == WORD.many and not store.is_pending(record) then
    if promises.waiters_left > 0 then promises.notify_some(record) end
  else
    timer.disarm(member)
  end
end

local function fire(id, member)
  local record = promises.touch(id)
  if record and store.is_pending(record) then
    timer.arm(member, tonumber(record[R.timeout])) -- its time was wrong
  else
    timer.disarm(member)
  end
end

-- What a due timer is for. Schedules and what is to be told to others go to lists.
local function act(member, offered, tells)
  local what, id = string.sub(member, 1, 1), string.sub(member, 2)
  if what == 'p' then
    fire(id, member)
  elseif what == 't' then
    look_again(id, member)
  elseif what == 'c' then
    offered[#offered + 1] = offer(id)
  elseif what == 'r' then
    notify_others(id, member)
  elseif what == 'x' and string.find(id, '%z') then
    tells[#tells + 1] = { string.match(id, '^([^%z]*)%z(.*)$') }
    timer.arm(member, now + TELL_AGAIN_MS)
  else
    error('this is no timer of ours', 0)
  end
end

-- Deadlines come first. What fails is put off, so that it stops nothing else.
local function tick(most)
  local due = redis.call('ZRANGEBYSCORE', timers, '-inf', now_text, 'LIMIT', 0, most)
  local offered, tells, failures = {}, {}, {}
  for _, is_turn_of_deadlines in ipairs({ true, false }) do
    for _, member in ipairs(due) do
      if (string.sub(member, 1, 1) == 'p') == is_turn_of_deadlines then
        local problem = attempt(act, member, offered, tells)
        if problem then
          redis.call('ZADD', timers, int(now + FAILED_MS), member)
          failures[#failures + 1] = { member, problem }
        end
      end
    end
  end
  return #due, offered, tells, failures
end
