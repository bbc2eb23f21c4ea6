-- Senders in other partitions that have not heard.
function messages.untold(id)
  local found_lines, key = {}, near(NEAR.mail .. id)
  if not is_a(key, 'hash') then return found_lines end
  for _, name in ipairs(redis.call('HKEYS', key)) do
    if string.sub(name, 1, 1) == 'x' then found_lines[#found_lines + 1] = name end
  end
  return found_lines
end

-- What the fields of a mailbox say together: how many messages there are, with how many bytes, and where those of each
-- channel begin and end.
local function count_messages(fields)
  local count, bytes, channels = 0, 0, {}
  for i = 1, #fields, 2 do
    local sequence, channel = string.match(fields[i], '^m(%-?%d+) (.*)$')
    if sequence then
      local at, value = tonumber(sequence), string.match(fields[i + 1], '^[^\n]*\n(.*)$')
      count, bytes = count + 1, bytes + #(value or '')
      local known = channels[channel] or { at, at }
      channels[channel] = { math.min(known[1], at), math.max(known[2], at) }
    end
  end
  return count, bytes, channels
end

-- Every message is between the first and the next one of its channel.
local function check_channels(id, key, fields, channels)
  local named = {}
  for i = 1, #fields, 2 do
    local channel = string.match(fields[i], '^c(.*)$')
    if channel then named[channel] = fields[i + 1] end
  end
  for channel, range in pairs(channels) do
    local head, tail = string.match(named[channel] or '', '^(%-?%d+) (%-?%d+)$')
    local fits = head and tonumber(head) <= range[1] and tonumber(tail) > range[2]
    if not fits then
      found('miscounted', id, 'has messages that its mailbox would not find', function()
        local next_free = math.max(range[2] + 1, tonumber(tail or '') or range[2] + 1)
        redis.call('HSET', key, 'c' .. channel, int(range[1]) .. ' ' .. int(next_free))
      end)
    end
  end
  for channel in pairs(named) do
    if not channels[channel] then
      found('miscounted', id, 'has a channel without messages in its mailbox', function()
        redis.call('HDEL', key, 'c' .. channel)
      end)
    end
  end
end

-- The numbers of a mailbox are those of its messages and lines.
local function check_numbers(id, key, count, bytes, foreign)
  local known = redis.call('HGET', key, 'n') or ''
  local keys, calls = string.match(known, '^%d+ %d+ (%d+) (%d+) %d+$')
  local right = count .. ' ' .. int(bytes) .. ' ' .. (keys or '0') .. ' ' .. (calls or '0') .. ' ' .. foreign
  if known == right then return end
  found('miscounted', id, 'has a mailbox that counts other messages than it has', function()
    redis.call('HSET', key, 'n', right)
  end)
end

local function check_untold(id, foreign)
  if foreign == 0 or redis.call('ZSCORE', timers, id .. '~mail') then return end
  found('untold', id, 'has messages of other partitions, but nobody tells their senders', function()
    set_timer(id .. '~mail', now)
  end)
end

-- A mailbox: that of an execution that runs, or what is left of it until others have heard.
function checks.mail(id)
  local key = near(NEAR.mail .. id)
  check_type(key, 'hash')
  local fields = redis.call('HGETALL', key)
  if #fields == 0 then return '' end
  local record, foreign = load(id), #messages.untold(id)
  local is_owned = record and record.state == STATE.pending and extras.has(record, 'm')
  local is_left = not is_owned and redis.call('PTTL', key) < 0
  if is_left and not redis.call('ZSCORE', timers, id .. '~mail') then -- it goes a minute after all have heard
    found('mail', id, 'has a mailbox, but no use for it any more', function()
      if foreign == 0 then return redis.call('UNLINK', key) end
      set_timer(id .. '~mail', now)
    end)
  elseif is_owned and redis.call('PTTL', key) ~= -1 then
    found('expiring', id, 'is pending, but its mailbox expires', function()
      redis.call('PERSIST', key)
    end)
  end
  check_untold(id, foreign)
  if #findings > 0 then return '' end
  local count, bytes, channels = count_messages(fields)
  check_channels(id, key, fields, channels)
  check_numbers(id, key, count, bytes, foreign)
  return ''
end
