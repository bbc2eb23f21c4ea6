-- Checks one thing of Resonate's protocol at this instant; with `repair` it repairs what needs no guess.
-- `what` is promise, timer, queue (member `at` of queue `name`), settled (a member of it), schedule, waiters, readers or
-- branch.
-- Answers as fsck.lua. A branch is checked in pages, and a promise that may depend on another partition in steps: there
-- the answer is a word, a version and an id, with a NUL between. The caller gives the id as `name`, and the word, the
-- version and the former id as `at`.
-- @include resonate/keys
local repair = ARGV[1]
-- @include now
-- @include each_item
-- @include resonate/promises
-- @include resonate/branches
-- @include resonate/lease
-- @include resonate/schedules
-- @include resonate/attempt
-- @include found
if repair == '1' then redis.call('ZREM', timers, '') end -- broken data may be repaired on a full Redis

local checks = {}
local TASKS = { p = true, a = true, s = true, h = true, f = true }

local function is_armed(member)
  return redis.call('ZSCORE', timers, member)
end

local function check_deadline(record)
  local due = math.min(tonumber(record[R.timeout]), LIMIT.due_ms_max)
  local score = is_armed('p' .. record.id)
  if score and tonumber(score) == due then return end
  local text = score and 'has a timer at another time than its deadline' or 'has a deadline, but no timer'
  found(score and 'mistimed' or 'untimed', record.id, text, function()
    timer.arm('p' .. record.id, due)
  end)
end

local function is_queued(record)
  local key = own_prefix .. 'queue:' .. (queue.address_of(record[R.target]))
  return redis.call('ZSCORE', key, record.id)
end

local function is_waiter(awaited, waiter)
  local field = awaited[R.waiters] or ''
  waiter = waiters.short(awaited, waiter)
  if field == WORD.many then return redis.call('SISMEMBER', waiters.key(awaited.id), waiter) == 1 end
  return string.find('\0' .. field, '\0' .. waiter .. '\0', 1, true)
end

-- Whether what a task waits for is pending, and knows it, or the task is being told: else nobody wakes it.
local function will_wake(id, awaiter)
  if is_armed('r' .. id) or is_armed('x' .. awaiter .. '\0' .. id) then return true end
  local awaited = store.find(id)
  if not awaited or not store.is_pending(awaited) then return false end
  return is_waiter(awaited, 'c' .. awaiter) or is_waiter(awaited, 'x' .. awaiter)
end

local function find_stuck(record)
  found('stuck', record.id, 'sleeps, but nothing it waits for wakes it', function()
    lease.release(record)
  end)
end

-- What a task waits for may be in another partition, so the caller goes on there: with the version of the task, and
-- with an id. If nobody there wakes the task, the caller comes back with that version.
local steps = {}

function steps.awaited(id, version, awaiter)
  return will_wake(id, awaiter) and '' or 'stuck\0' .. version .. '\0' .. awaiter
end

function steps.stuck(id, version)
  local record = store.load(id)
  local is_same = record and store.is_pending(record) and record[R.task] == 's'
  if is_same and (record[R.version] or '0') == version then find_stuck(record) end
  return ''
end

local tasks = {}

function tasks.p(record)
  if record[R.kind] == 'm' or is_queued(record) or is_armed('t' .. record.id) then return end
  found('unqueued', record.id, 'has a pending task, but no message says so', function()
    queue.send(record)
  end)
end

function tasks.a(record)
  if not record[R.pid] or not tonumber(record[R.ttl] or '') then
    found('corrupt', record.id, 'has an acquired task that nobody holds', function()
      lease.release(record)
    end)
  elseif not is_armed('t' .. record.id) then
    found('untimed', record.id, 'has an acquired task, but its lease does not end', function()
      timer.arm('t' .. record.id, now + tonumber(record[R.ttl]))
    end)
  end
end

function tasks.s(record)
  local awaits = record[R.awaits]
  if not awaits then return find_stuck(record) end
  local id = string.sub(awaits, 1, 1) == '\0' and record.id .. string.sub(awaits, 2) or awaits
  if tags.root_of(id) ~= tags.root_of(record.id) then return 'awaited\0' .. (record[R.version] or '0') .. '\0' .. id end
  if not will_wake(id, record.id) then find_stuck(record) end
end

function tasks.h() end

function tasks.f(record)
  found('corrupt', record.id, 'is pending, but its task is fulfilled')
end

local function check_pending(record)
  local next_at = ''
  if store.is_by_itself(record) then check_deadline(record) end
  if (record[R.target] ~= nil) ~= (record[R.task] ~= nil) then
    found('corrupt', record.id, 'has a target without a task, or a task without a target')
  elseif record[R.task] then
    next_at = tasks[record[R.task]](record) or ''
  end
  local root = retention.root_of(record)
  if root ~= record.id and redis.call('EXISTS', store.key(root)) == 0 then
    found('orphan', record.id, 'is pending, but its root ' .. root .. ' is gone', function()
      store.put(record, R.counted, false)
    end)
  end
  return next_at
end

local function check_settled(record)
  if store.is_by_itself(record) and not redis.call('ZSCORE', own_prefix .. 'settled', record.id) then
    found('kept', record.id, 'has settled, but is kept for ever', function()
      retention.keep(record)
    end)
  end
  if record[R.task] and record[R.task] ~= 'f' then
    found('corrupt', record.id, 'has settled, but its task is not fulfilled', function()
      promises.end_task(record)
    end)
  end
  if record[R.waiters] and not is_armed('r' .. record.id) then
    found('untold', record.id, 'has settled, but not all who wait for it were told', function()
      if record[R.waiters] == WORD.many then return timer.arm('r' .. record.id, now) end
      for waiter in string.gmatch(record[R.waiters], '[^%z]+') do
        promises.notify(record, waiter)
      end
      store.put(record, R.waiters, false)
    end)
  end
end

function checks.promise(id, at)
  local step, version, other = string.match(at, '^(%l+)%z(%d+)%z(.*)$')
  if step then return steps[step](id, version, other) end
  local record = store.load(id)
  if not record and redis.call('EXISTS', store.key(id)) == 0 then return '' end
  local is_ours = record
    and tonumber(record[R.timeout])
    and tonumber(redis.call('HGET', store.key(id), R.created) or '')
  if not is_ours or not TASKS[record[R.task] or 'p'] or not render.STATE[record[R.state]] then
    found('corrupt', id, 'is not a promise of ours')
  elseif store.is_pending(record) then
    return check_pending(record)
  elseif not tonumber(record[R.settled] or '') then
    found('corrupt', id, 'has settled, but nothing says when')
  else
    check_settled(record)
  end
  return ''
end

-- One that cannot be read is named by itself, and not what refers to it.
local function is_unreadable(id)
  return not pcall(store.load, id)
end

-- What a timer is for; nil if there is nothing.
local function is_needed(what, id)
  if what == 'c' then return redis.call('EXISTS', schedules.key(id)) == 1 end
  if what == 'x' then return string.find(id, '%z') end
  if is_unreadable(id) then return true end
  local record = store.load(id)
  if what == 'p' then return record and store.is_pending(record) end
  if what == 't' then return record and (record[R.task] == 'p' or record[R.task] == 'a') end
  if what == 'r' then return record and record[R.waiters] and not store.is_pending(record) end
end

function checks.timer(member)
  if is_armed(member) and not is_needed(string.sub(member, 1, 1), string.sub(member, 2)) then
    found('timer', member, 'is a timer that nothing needs', function()
      timer.disarm(member)
    end)
  end
  return ''
end

function checks.queue(address, id)
  local key = own_prefix .. 'queue:' .. address
  if not redis.call('ZSCORE', key, id) then return '' end
  if is_unreadable(id) then return '' end
  local record = store.load(id)
  local is_fit = record and (queue.is_ours(address) or record[R.task] == 'p')
  if not is_fit then
    found('entry', address .. ' ' .. id, 'is in a queue, but its task is not pending', function()
      redis.call('ZREM', key, id)
    end)
  end
  return ''
end

function checks.settled(id)
  local key = own_prefix .. 'settled'
  if is_unreadable(id) then return '' end
  local record = store.load(id)
  if redis.call('ZSCORE', key, id) and not (record and not store.is_pending(record)) then
    found('entry', id, 'is to be removed some time, but has not settled', function()
      redis.call('ZREM', key, id)
    end)
  end
  return ''
end

function checks.schedule(id)
  local schedule = schedules.load(id)
  if not schedule then return '' end
  if not tonumber(schedule[RS.due] or '') or not schedule[RS.cron] then
    found('corrupt', id, 'is not a schedule of ours')
  elseif not is_armed('c' .. id) then
    found('untimed', id, 'is a schedule without a timer', function()
      timer.arm('c' .. id, tonumber(schedule[RS.due]))
    end)
  end
  return ''
end

-- A set that belongs to a promise, of which a field says that it is there.
local function check_set(id, field, key, text)
  if is_unreadable(id) then return '' end
  local record = store.load(id)
  if redis.call('EXISTS', key) == 1 and not (record and record[field] == WORD.many) then
    found('waiters', id, text, function()
      redis.call('UNLINK', key)
    end)
  end
  return ''
end

function checks.waiters(id)
  return check_set(id, R.waiters, waiters.key(id), 'has a set of waiters that it does not know')
end

function checks.readers(id)
  return check_set(id, R.readers, retention.key(id), 'has a set of tasks that it does not know')
end

-- A promise that goes with its branch, and whose branch is gone, would stay for ever.
local function stand_alone(record)
  store.put(record, R.kind, 'a')
  if store.is_pending(record) then
    timer.arm('p' .. record.id, tonumber(record[R.timeout]))
  else
    retention.keep(record)
  end
end

function checks.branch(id, at)
  local key = branches.key(id)
  local page = redis.call('SSCAN', key, at == '' and '0' or at, 'COUNT', 16)
  local is_there = store.load(id)
  for _, member in ipairs(page[2]) do
    local record = store.load(member)
    if not record then
      found('entry', id .. ' ' .. member, 'is listed in a branch, but gone', function()
        redis.call('SREM', key, member)
      end)
    elseif not is_there and not store.is_by_itself(record) then
      found('kept', member, 'goes with its branch, which is gone', function()
        stand_alone(record)
      end)
    end
  end
  return page[1] ~= '0' and page[1] or ''
end

local function check(item)
  local what, name, at = unpack(ARGV, item + 1, item + 3)
  if not checks[what] then error('INVALID check ' .. what, 0) end
  findings = {}
  local next_at
  local problem = attempt(function()
    next_at = checks[what](name, at)
  end)
  if problem then error(problem, 0) end
  return { next_at, unpack(findings) }
end

local answers = each_item(2, check)
at_end()
return answers
