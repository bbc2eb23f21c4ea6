-- Where an execution is that is to run: in its stream, delayed, or at the gate of its limit.

local function as_number(entry)
  local ms, number = string.match(entry, '^(%d+)%-(%d+)$')
  return tonumber(ms or '0'), tonumber(number or '0')
end

-- Whether the group has read past an entry.
local function is_delivered(record)
  local groups = redis.pcall('XINFO', 'GROUPS', queue_prefix .. record.queue)
  if groups.err then return false end
  for _, group in ipairs(groups) do
    local is_ours = false
    for i = 1, #group, 2 do
      if group[i] == 'name' then is_ours = group[i + 1] == group_of(record.queue) end
      if is_ours and group[i] == 'last-delivered-id' then
        local ms, number = as_number(group[i + 1])
        local our_ms, our_number = as_number(record.entry)
        return ms > our_ms or (ms == our_ms and number >= our_number)
      end
    end
  end
  return false
end

local function args_of(record)
  local names = { F.args }
  for i = 1, LIMIT.args_parts_max - 1 do
    names[i + 1] = F.args .. i
  end
  local args = ''
  for _, part in ipairs(redis.call('HMGET', record.key, unpack(names))) do
    args = args .. (part or '')
  end
  return args
end

-- The data of an execution in its stream entry is a hint: it may be older. But data that does not change as long as the
-- execution is queued must be the same as in its hash, see `write_snapshot`.
local function is_true_of(record, snapshot)
  local line, body = string.match(snapshot, '^([^\n]*)\n(.*)$')
  if not line then return false end
  local values = {}
  for value in string.gmatch(line .. '\t', '([^\t]*)\t') do
    values[#values + 1] = value
  end
  local size = tonumber(values[7])
  local entries_size = 0
  for i = 9, #values, 2 do
    entries_size = entries_size + (tonumber(values[i]) or 0)
  end
  return size ~= nil
    and values[1] == record.incarnation
    and string.sub(body, 1, size) == args_of(record)
    and string.sub(body, size + entries_size + 1) == record.func
end

local function as_table(fields)
  local by_name = {}
  for i = 1, #fields, 2 do
    by_name[fields[i]] = fields[i + 1]
  end
  return by_name
end

local function check_queued(record)
  local row = record.entry and redis.call('XRANGE', queue_prefix .. record.queue, record.entry, record.entry)[1]
  local fields = row and row[2] or {}
  local entry = as_table(fields)
  if entry.i ~= record.id or tonumber(entry.e) ~= record.epoch then
    return found('unqueued', record.id, 'is queued, but its stream has no entry for it', again(record))
  end
  if fields[5] == 'x' and not is_true_of(record, fields[6]) then
    return found('misquoted', record.id, 'is queued, but its stream entry does not match it', again(record))
  end
  if not holder(record) and is_delivered(record) then
    found('undelivered', record.id, 'was delivered, but nobody holds it', again(record))
  end
end

local function check_delayed(record)
  if not record.due then
    return found('unqueued', record.id, 'is delayed, but nothing says until when', again(record))
  end
  local member = redis.call('ZSCORE', timers, record.id .. '~retry') and '~retry' or '~start'
  check_timer(record.id .. member, record.due)
end

-- At the gate of its limit, or with a slot of it.
local function check_limit_of(record)
  local sign, name, key = gates().parts_of(record.limit or '')
  if not sign then
    if record.place ~= PLACE.parked then return end
    return found('nowhere', record.id, 'is parked, but has no limit', again(record))
  end
  local gate = gates().gate_of(name)
  local is_held = redis.call('HEXISTS', gate.key .. ':held', record.id) == 1
  if record.place == PLACE.parked then
    local is_known = redis.call('ZSCORE', gates().parked_of(gate, key), record.id)
      or redis.call('ZSCORE', timers, record.id .. '~replaced')
    if not is_known then found('unparked', record.id, 'is parked, but its limit does not know it', again(record)) end
  elseif sign == '+' and not is_held then
    found('unheld', record.id, 'has a slot of limit ' .. name .. ', which does not count it', function()
      gates().hold_slot(gate, record.id, key)
    end)
  elseif sign == '+' and record.place ~= PLACE.queued and not gate.is_for_life then
    found('unfreed', record.id, 'has a slot of limit ' .. name .. ', but does not run', function()
      free_slot(record)
      save(record)
    end)
  elseif record.place == PLACE.queued and sign == '-' then
    found('unheld', record.id, 'is queued, but has not passed the gate of limit ' .. name, again(record))
  end
end
