-- @include record
-- @include timer
local cleared = {} -- queue -> the entries that leave it, acknowledged at the end in one command

-- Out of the place it is in, whichever that is. The caller saves and puts it elsewhere.
local function leave(record)
  if record.entry then
    local entries = cleared[record.queue]
    if not entries then
      entries = {}
      cleared[record.queue] = entries
    end
    entries[#entries + 1] = record.entry
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
