-- @include entry
-- @include record
-- The receives of an execution that wait for a message, in the order in which they were asked for: it is of time, not
-- of the numbers. They are read when they are needed, because few executions have any, and written with the record.
local receives = {}

-- As they were read.
function receives.keep(record, lines)
  record.receives = lines or ''
  record.saved_receives = record.receives
end

function receives.of(record)
  if record.receives == nil then receives.keep(record, redis.call('HGET', record.key, F.receives)) end
  return record.receives
end

function receives.add(record, number, channel)
  record.receives = receives.of(record) .. number .. '\t' .. channel .. '\n'
  record.only_receive = nil
end

function receives.remove(record, number)
  local lines = receives.of(record)
  if number == record.only_receive then
    record.receives, record.only_receive = '', nil
    return
  end
  local first = string.find('\n' .. lines, '\n' .. number .. '\t', 1, true)
  if not first then return end
  local last = string.find(lines, '\n', first, true)
  record.receives = string.sub(lines, 1, first - 1) .. string.sub(lines, last + 1)
end

-- None of them counts any more.
function receives.clear(record)
  if receives.of(record) ~= '' then record.receives = '' end
end

-- How many there are.
function receives.count(record)
  local _, count = string.gsub(receives.of(record), '\n', '')
  return count
end

function receives.is_for(entry, channel)
  return entry and entry.kind == KIND.receive and entry.state == STATE.pending and entry.name == channel
end

-- The number and entry of the first one for this channel; nil if none waits. A line whose entry does not wait any more
-- is passed over. Mostly there is one.
function receives.first(record, channel)
  local only, its_channel = string.match(receives.of(record), '^([^\t]+)\t([^\n]+)\n$')
  if only then
    local entry = its_channel == channel and read_entry(raw_of(record, only))
    if not receives.is_for(entry, channel) then return nil end
    record.only_receive = only
    return only, entry
  end
  for number, name in string.gmatch(receives.of(record), '([^\t]+)\t([^\n]+)\n') do
    if name == channel then
      local entry = read_entry(raw_of(record, number))
      if receives.is_for(entry, channel) then return number, entry end
    end
  end
end
