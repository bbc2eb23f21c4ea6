-- @include resonate/promises
-- The lease of a task: by process and time to live, over all restarts of gateways.
local lease = {}

function lease.begin(record, version, pid, ttl)
  store.put(record, R.task, 'a', R.version, int(version), R.pid, pid, R.ttl, int(ttl), R.resumes, false, R.heard, false)
  timer.arm('t' .. record.id, now + ttl)
  queue.remove(record)
end

function lease.acquire(record, pid, ttl)
  lease.begin(record, tonumber(record[R.version] or '0') + 1, pid, ttl)
end

-- Whoever acquires it and releases it at once, again and again, cannot run it: it waits for a while each time.
function lease.is_refused(record)
  if tonumber(record[R.version] or '0') < LIMIT.resonate_refused_min then return false end
  local ends = redis.call('ZSCORE', timers, 't' .. record.id)
  return ends and tonumber(ends) - tonumber(record[R.ttl] or '0') > now - LIMIT.resonate_refused_ms
end

-- It is offered again: at once, or at another time.
function lease.release(record, at)
  store.put(record, R.task, 'p', R.pid, false, R.ttl, false)
  if at then return timer.arm('t' .. record.id, at) end
  timer.disarm('t' .. record.id)
  queue.send(record)
end

-- A task that is held by whoever asks; else nothing, a status and a sentence.
function lease.held(id, version)
  local record = promises.touch(id)
  if not record or not record[R.task] then return nil, 404, 'Task not found' end
  if record[R.task] ~= 'a' or not store.is_pending(record) or tonumber(record[R.version] or '0') ~= version then
    return nil, 409, 'Task is not acquired, or has another version'
  end
  return record
end
