-- @include record
-- @include put_aside
-- @include timer
local cleared = {} -- queue -> the entries that leave it, acknowledged at the end in one command

-- Refuses a queue that is no stream, before anything is written.
local function check_queue(queue)
  check_type(queue_prefix .. queue, 'stream')
end

-- Where a person will look after it. The caller saves.
local function halt(record, reason)
  record.place = PLACE.halted
  put(record, F.place, record.place)
  put(record, F.reason, reason)
  put_aside(record.id)
end

-- To its stream, under a new epoch. The caller saves. It never fails: what was settled must reach its owner,
-- so an execution whose queue is no stream is halted, to be resumed when somebody has mended that.
local function dispatch(record)
  local queue = queue_prefix .. record.queue
  local fits, found = is_a(queue, 'stream')
  if not fits then return halt(record, queue .. ' holds a ' .. found .. ', not a stream') end
  record.epoch = record.epoch + 1
  record.entry = redis.call('XADD', queue, '*', 'i', record.id, 'e', record.epoch)
  record.place = PLACE.queued
  put(record, F.place, record.place)
  put(record, F.epoch, record.epoch)
  put(record, F.entry, record.entry)
end

-- Out of the place it is in, whichever that is. The caller saves and puts it elsewhere.
local function leave(record)
  if record.entry then
    cleared[record.queue] = cleared[record.queue] or {}
    table.insert(cleared[record.queue], record.entry)
    drop(record, F.entry)
    record.entry = nil
  end
  if record.place == PLACE.delayed then
    unset_timer(record.id .. '~start')
    unset_timer(record.id .. '~retry')
    drop(record, F.due)
    drop(record, F.reason)
    record.due = nil
  elseif record.place == PLACE.halted then
    if is_a(halted, 'zset') then redis.call('ZREM', halted, record.id) end
    drop(record, F.reason)
  end
end

-- Once, at the end of a script.
local function clear_queues()
  for queue, entries in pairs(cleared) do
    local stream = queue_prefix .. queue
    if is_a(stream, 'stream') then
      in_chunks(entries, 'XACK', stream, group_of(queue))
      in_chunks(entries, 'XDEL', stream)
    end
  end
end
