-- @include leave
-- @include quarantine
local carries = {} -- queue -> whether new entries of it may carry a snapshot

-- Refuses a queue that is not a stream, before anything is written.
local function check_queue(queue)
  check_type(queue_prefix .. queue, 'stream')
end

-- Halts it, until a person looks at it. The caller saves.
local function halt(record, reason)
  free_slot(record)
  record.place = PLACE.halted
  put(record, F.place, record.place)
  put(record, F.reason, reason)
  quarantine(record.id)
end

-- Whether an entry of this queue may carry the data for the first activation: not while thousands wait, because that
-- takes memory.
local function may_carry(queue)
  if carries[queue] == nil then carries[queue] = redis.call('XLEN', queue) < LIMIT.snapshots_queued_max end
  return carries[queue]
end

-- Puts an execution into its stream, with a new epoch. The caller saves. It never fails: a settlement must reach its
-- owner. So an execution whose queue is not a stream is halted, to be resumed when somebody has repaired that.
-- `snapshot` is the content of its hash, see `write_snapshot`: the reader of the entry need not load the hash. Only a
-- hint. Its labels and its trace come along.
local function enqueue(record, snapshot)
  local queue = queue_prefix .. record.queue
  local fits, found = is_a(queue, 'stream')
  if not fits then return halt(record, queue .. ' holds a ' .. found .. ', not a stream') end
  record.epoch = record.epoch + 1
  local epoch = int(record.epoch)
  if snapshot and may_carry(queue) then
    if record.trace then
      local words = { 'i', record.id, 'e', epoch, 'x', snapshot, 't', record.trace }
      if record.labels then
        words[7], words[8], words[9], words[10] = 'l', record.labels, 't', record.trace
      end
      record.entry = redis.call('XADD', queue, '*', unpack(words))
    elseif record.labels then
      record.entry = redis.call('XADD', queue, '*', 'i', record.id, 'e', epoch, 'x', snapshot, 'l', record.labels)
    else
      record.entry = redis.call('XADD', queue, '*', 'i', record.id, 'e', epoch, 'x', snapshot)
    end
  else
    record.entry = redis.call('XADD', queue, '*', 'i', record.id, 'e', epoch)
  end
  record.place = PLACE.queued
  put(record, F.place, record.place)
  put(record, F.epoch, epoch)
  put(record, F.entry, record.entry)
end

-- The same for one that may have to wait at the gate of its limit.
local function dispatch(record, snapshot)
  if not record.limit or gates().pass(record) then enqueue(record, snapshot) end
end
