-- Checks one thing at this instant by the laws that broken data would violate; with `repair` it repairs everything that
-- needs no guess. The thing cannot change between the check and the repair.
-- `what` is promise, mail (the mailbox of an execution), limit, timer, entry (of queue `name`, with id `at`), halted,
-- closing, member (of `workers`), schedule or expiring (a key).
-- A promise is checked in pages: `at` is "" at first, then the answer of the page before.
-- Answers per item: where to go on, "" at the end; then for each finding its kind, id, a sentence, and whether it was
-- repaired ("1"), could be ("0") or cannot be ("").
-- @include keys
-- @include each_item
-- @include find
-- @include mailbox
-- @include foreign_waiters
-- @include last_id
-- @include schedule_form
local repair = unpack(ARGV, 1, 1)

if repair == '1' then redis.call('ZREM', timers, '') end -- broken data may be repaired on a full Redis

local STEP = 16 -- entries checked at a time, as in load
local KEPT_MS = 90000 -- of a key that should expire, when its expiry is repaired

-- @include found

-- Whether the firer will come: this promise, one above it, or an ended run of either waits to be closed.
local function is_closing(id)
  while id do
    if redis.call('ZSCORE', closing, id) or redis.call('ZSCORE', closing, id .. '~run') then return true end
    id = owner_of(id)
  end
  return false
end

local function check_timer(member, due)
  local score = redis.call('ZSCORE', timers, member)
  if score and tonumber(score) == tonumber(due) then return end
  local text = score and 'its timer has another time than its due time' or 'is due some time, but has no timer'
  found(score and 'mistimed' or 'untimed', member, text, function()
    set_timer(member, tonumber(due))
  end)
end

-- A new stream entry: the holder of the old one is fenced.
local function again(record)
  return function()
    leave(record)
    dispatch(record)
    save(record)
  end
end

-- @include fsck/queued

-- @include fsck/entry

local checks = {}

-- @include fsck/journal

-- @include fsck/settled

-- @include fsck/view

function checks.promise(id, at)
  local record = load(id)
  if not record then return '' end
  if record.extras and at == '' then check_extras(record) end
  if record.state ~= STATE.pending then
    check_settled(record)
    return ''
  end
  local ok, problem = pcall(check_known, record)
  if not ok then
    found('newer', id, string.match(text_of(problem), '(is .*)$'))
    return ''
  end
  if is_orphan(record) and not is_closing(id) then
    found('orphan', id, 'is pending, but the execution that asked for it has ended or is gone', function()
      finish(record, STATE.canceled, '')
    end)
    return ''
  end
  if redis.call('PTTL', record.key) ~= -1 then
    found('expiring', id, 'is pending, but its key expires', function()
      redis.call('PERSIST', record.key)
    end)
  end
  if record.deadline then check_timer(id .. '~timeout', record.deadline) end
  if record.waiters then check_waiters(record) end
  if record.kind ~= KIND.execution then return '' end
  messages.check_index(record)
  if record.limit or record.place == PLACE.parked then check_limit_of(record) end
  if record.place == PLACE.parked then return '' end
  if record.place == PLACE.queued then
    check_queued(record)
  elseif record.place == PLACE.delayed then
    check_delayed(record)
  elseif record.place == PLACE.halted then
    if not redis.call('ZSCORE', halted, id) then
      found('unnamed', id, 'is halted, but not in the list of halted executions', function()
        quarantine(id)
      end)
    end
  elseif record.place ~= PLACE.suspended then
    found('nowhere', id, 'is pending, but in no place', again(record))
  elseif record.unseen ~= '' then
    found('unwoken', id, 'sleeps, although an entry it waited for has settled', again(record))
  end
  return #findings == 0 and check_journal(record, at) or ''
end

-- @include fsck/timer

function checks.entry(queue, at)
  local row = redis.call('XRANGE', queue_prefix .. queue, at, at)[1]
  if not row then return '' end
  local entry = as_table(row[2])
  local id, epoch = entry.i or '', entry.e
  local ok, record = pcall(load, id)
  if ok and record and record.state == STATE.pending and record.entry == at and record.epoch == tonumber(epoch) then
    return ''
  end
  found('entry', queue .. ' ' .. at, 'is in the stream, but belongs to no queued execution', function()
    redis.call('XACK', queue_prefix .. queue, group_of(queue), at)
    redis.call('XDEL', queue_prefix .. queue, at)
  end)
  return ''
end

function checks.halted(name)
  if not redis.call('ZSCORE', halted, name) then return '' end
  local ok, record = pcall(load, name)
  local schedule, why = string.match(name, '^schedule:([%w_.-]+): (.*)$')
  if schedule and redis.call('HGET', schedule_prefix .. schedule, S.aside) ~= why then
    found('halted', name, 'is listed as quarantined, but is not', function()
      redis.call('ZREM', halted, name)
    end)
  elseif not ok or (not record and string.find(name, ': ', 1, true)) then
    local what = schedule and 'cannot be read by its workers: use app.schedule() again, or app.unschedule()'
      or 'was quarantined: look at it, then `durasleep namespace discard` it'
    found('aside', name, what)
  elseif not record or record.place ~= PLACE.halted then
    found('halted', name, 'is listed as halted, but is not', function()
      redis.call('ZREM', halted, name)
    end)
  end
  return ''
end

function checks.closing(id)
  local owner_id, what = owner_of(id)
  local is_there = what == 'run' and redis.call('EXISTS', run_prefix .. owner_id) == 1 or load(id)
  if redis.call('ZSCORE', closing, id) and not is_there then
    found('closing', id, 'is to be closed, but is gone', function()
      redis.call('ZREM', closing, id)
    end)
  end
  return ''
end

-- The key of a worker expires long after its last heartbeat.
function checks.member(name)
  if redis.call('ZSCORE', workers, name) and redis.call('EXISTS', worker_prefix .. name) == 0 then
    found('stale', name, 'is listed as a worker, but has sent no heartbeat for long', function()
      redis.call('ZREM', workers, name)
    end)
  end
  return ''
end

-- The set of the waiters of a promise: as long as its field refers to it, the ending or the closing of the promise
-- reads it.
function checks.waiters(id)
  local record = load(id)
  if record and record.waiters == WORD.many then return '' end
  if redis.call('EXISTS', waiters_prefix .. id) == 1 then
    found('waiters', id, 'has a set of waiters, but does not refer to it', function()
      redis.call('UNLINK', waiters_prefix .. id)
    end)
  end
  return ''
end

do
  -- @include fsck/mail
end

-- The journal of an ended run.
function checks.run(id)
  local is_left = redis.call('EXISTS', run_prefix .. id) == 1 and not redis.call('ZSCORE', closing, id .. '~run')
  if is_left then
    found('run', id, 'has begun a new run, but the run before is not closed', function()
      close_later(id .. '~run')
    end)
  end
  return ''
end

do
  -- @include fsck/limit
end

-- @include fsck/schedule

-- A key whose content is checked elsewhere, or is only a hint: it holds what we write there, or nothing.
function checks.key(name)
  local of_kind = {
    audit = 'stream',
    closing = 'zset',
    failed = 'stream',
    functions = 'hash',
    group = 'hash',
    halted = 'zset',
    index = 'zset',
    recent = 'stream',
    schedules = 'zset',
    timers = 'zset',
    wake = 'stream',
    workers = 'zset',
  }
  check_type(near(name), of_kind[string.match(name, '^[^:]*')])
  return ''
end

function checks.expiring(key)
  if redis.call('PTTL', key) == -1 then
    found('kept', key, 'should expire, and does not', function()
      redis.call('PEXPIRE', key, KEPT_MS)
    end)
  end
  return ''
end

local function check(item)
  local what, name, at = unpack(ARGV, item + 1, item + 3)
  if not checks[what] then error('INVALID check ' .. what, 0) end
  findings = {}
  local next_at = checks[what](name, at)
  return { next_at, unpack(findings) }
end

local answers = each_item(2, check)
close_families()
at_end()
return answers
