-- @include record
local queues_checked = {}

-- Refuses a queue that is no stream, before anything is written.
local function check_queue(queue)
  if queues_checked[queue] then return end
  local found = redis.call('TYPE', queue_prefix .. queue)
  found = type(found) == 'table' and found.ok or found
  if found ~= 'none' and found ~= 'stream' then
    error('CORRUPT ' .. queue_prefix .. queue .. ' holds a ' .. found .. ', not a stream', 0)
  end
  queues_checked[queue] = true
end

-- To its stream, under a new epoch. The caller saves.
local function dispatch(record)
  check_queue(record.queue)
  record.epoch = record.epoch + 1
  record.entry = redis.call('XADD', queue_prefix .. record.queue, '*', 'i', record.id, 'e', record.epoch)
  record.place = PLACE.queued
  put(record, F.place, record.place)
  put(record, F.epoch, record.epoch)
  put(record, F.entry, record.entry)
  if record.due then
    drop(record, F.due)
    drop(record, F.reason)
    record.due = nil
  end
end

-- Out of the place it is in, whichever that is. The caller saves and puts it elsewhere.
local function leave(record)
  if record.entry then
    local queue = queue_prefix .. record.queue
    redis.call('XACK', queue, group_of(record.queue), record.entry)
    redis.call('XDEL', queue, record.entry)
    drop(record, F.entry)
    record.entry = nil
  end
  if record.place == PLACE.delayed then
    redis.call('ZREM', timers, record.id .. '~start', record.id .. '~retry')
    drop(record, F.due)
    drop(record, F.reason)
    record.due = nil
  elseif record.place == PLACE.halted then
    redis.call('ZREM', halted, record.id)
    drop(record, F.reason)
  end
end
