-- Keeps what workers declare of their functions, and the numbers of limits: those of the code, until a person has set
-- others by hand.
-- Actions: "function" (`fields` is what is declared, "" for nothing any more), "limit" (names and values that follow, by
-- the code), "set" (the same by hand; an empty value is none), "pause", "resume", "reset" (to those of the code), "delete" (a limit
-- that no execution has).
-- Answers per item: "kept", or "same" if nothing has changed.
-- @include keys
-- @include each_item
-- @include gates
-- @include at_end
local CODE = { L.per_key, L.total, L.rate, L.window, L.burst, L.hold, L.parked_max, L.overflow, L.keyed }
local actions = {}

actions['function'] = function(name, fields)
  local key = near(NEAR.functions)
  check_type(key, 'hash')
  local before = redis.call('HGET', key, name) or ''
  if before == fields then return 'same' end
  if fields == '' then
    redis.call('HDEL', key, name)
  else
    if before == '' and redis.call('HLEN', key) >= LIMIT.functions_max then
      error('NOT_ALLOWED ' .. LIMIT.functions_max .. ' functions have something declared already', 0)
    end
    redis.call('HSET', key, name, fields)
  end
  return 'kept'
end

local function check_limit(name)
  local key = near(NEAR.limits .. name)
  check_type(key, 'hash')
  check_type(near(NEAR.functions), 'hash')
  check_type(timers, 'zset')
  return key
end

local function existing_limit(name)
  local key = check_limit(name)
  if redis.call('EXISTS', key) == 0 then error('NOT_FOUND there is no limit ' .. name, 0) end
  return key
end

local function write_fields(key, fields)
  for name, value in pairs(fields) do
    if value == '' then
      redis.call('HDEL', key, name)
    else
      redis.call('HSET', key, name, value)
    end
  end
end

local function changes_in(first, last)
  local fields = {}
  for i = first, last, 2 do
    fields[ARGV[i]] = ARGV[i + 1]
  end
  return fields
end

local function code_of(text)
  local fields, i = {}, 0
  for value in string.gmatch(text .. '\t', '([^\t]*)\t') do
    i = i + 1
    if CODE[i] then fields[CODE[i]] = value end
  end
  return fields
end

-- `fields` are all numbers of the code, between tabs.
function actions.limit(name, fields)
  local key = check_limit(name)
  local code, by_hand = unpack(redis.call('HMGET', key, L.code, L.by_hand))
  if code == fields then return 'same' end
  redis.call('HSET', near(NEAR.functions), '\t' .. name, '') -- its name is found there
  redis.call('HSET', key, L.code, fields)
  if by_hand then return 'kept' end
  write_fields(key, code_of(fields))
  gates().look_again(name)
  return 'kept'
end

function actions.set(name, _, first, last)
  local key = existing_limit(name)
  write_fields(key, changes_in(first, last))
  redis.call('HSET', key, L.by_hand, '1')
  gates().look_again(name)
  return 'kept'
end

function actions.pause(name)
  local key = existing_limit(name)
  if redis.call('HEXISTS', key, L.paused) == 1 then return 'same' end
  redis.call('HSET', key, L.paused, now_text)
  return 'kept'
end

function actions.resume(name)
  local key = existing_limit(name)
  if redis.call('HDEL', key, L.paused) == 0 then return 'same' end
  gates().look_again(name)
  return 'kept'
end

function actions.reset(name)
  local key = existing_limit(name)
  for _, field in ipairs(redis.call('HKEYS', key)) do
    if string.sub(field, 1, 2) == 'w:' then redis.call('HDEL', key, field) end
  end
  local code = redis.call('HGET', key, L.code) or ''
  write_fields(key, code_of(code))
  redis.call('HDEL', key, L.by_hand)
  gates().look_again(name)
  return 'kept'
end

function actions.delete(name)
  local key = existing_limit(name)
  local count = redis.call('HLEN', key .. ':held') + gates().counter(gates().gate_of(name), V.parked)
  if count > 0 then error('NOT_ALLOWED limit ' .. name .. ' is in use: ' .. count .. ' executions hold or wait', 0) end
  local functions = near(NEAR.functions)
  local flat = redis.call('HGETALL', functions)
  for i = 1, #flat, 2 do
    if string.match(flat[i + 1], '^([^\t]*)') == name then redis.call('HDEL', functions, flat[i]) end
  end
  redis.call('HDEL', functions, '\t' .. name)
  redis.call('DEL', key, key .. ':gate', key .. ':waiting')
  unset_timer(name .. '/~gates')
  return 'kept'
end

local function change(at, size)
  local action, name, fields = unpack(ARGV, at + 1, at + 3)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](name, fields, at + 4, at + size)
end

local answers = each_item(1, change)
at_end()
return answers
