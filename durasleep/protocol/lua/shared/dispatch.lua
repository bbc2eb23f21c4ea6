-- @include leave
-- @include quarantine
local carries = {} -- queue -> whether what is added to it may carry a snapshot

-- Refuses a queue that is no stream, before anything is written.
local function check_queue(queue)
  check_type(queue_prefix .. queue, 'stream')
end

-- Where a person will look after it. The caller saves.
local function halt(record, reason)
  record.place = PLACE.halted
  put(record, F.place, record.place)
  put(record, F.reason, reason)
  quarantine(record.id)
end

-- Whether an entry of this queue may say what the first activation needs: not while thousands wait, which are memory.
local function may_carry(queue)
  if carries[queue] == nil then carries[queue] = redis.call('XLEN', queue) < LIMIT.snapshots_queued_max end
  return carries[queue]
end

-- To its stream, under a new epoch. The caller saves. It never fails: what was settled must reach its owner,
-- so an execution whose queue is no stream is halted, to be resumed when somebody has mended that.
-- `snapshot` is what its hash will say, see `write_snapshot`: whoever takes the entry need not load it. Only a hint.
local function dispatch(record, snapshot)
  local queue = queue_prefix .. record.queue
  local fits, found = is_a(queue, 'stream')
  if not fits then return halt(record, queue .. ' holds a ' .. found .. ', not a stream') end
  record.epoch = record.epoch + 1
  local epoch = int(record.epoch)
  if snapshot and may_carry(queue) then
    record.entry = redis.call('XADD', queue, '*', 'i', record.id, 'e', epoch, 'x', snapshot)
  else
    record.entry = redis.call('XADD', queue, '*', 'i', record.id, 'e', epoch)
  end
  record.place = PLACE.queued
  put(record, F.place, record.place)
  put(record, F.epoch, epoch)
  put(record, F.entry, record.entry)
end
