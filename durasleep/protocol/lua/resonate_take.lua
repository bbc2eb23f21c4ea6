-- Takes messages for some addresses, at most `limit` for each. A message may be lost on its way: whoever does not hear of
-- a task for a while is told again, and whoever waits for a promise asks for it again.
-- Answers for each address its messages, each as the preferred process, empty if there is none, and its JSON. A word at
-- the end says what is wrong with the address, or with a promise, if anything is.
-- @include resonate/keys
local limit, now_ms = unpack(ARGV, 1, 2)
local RETRY_MS = 30000
local OURS_RETRY_MS = 5000 -- until what was not carried is taken again
local FAILED_MS = 3600000 -- and what cannot be read
-- @include resonate/clock
-- @include resonate/promises
-- @include resonate/render
-- @include resonate/attempt

local bytes_left = LIMIT.call_bytes_max -- that this call may still answer; what is left is for the next one

-- Whether that is all for now; then somebody should ask again.
local function is_enough()
  if bytes_left > 0 then return false end
  timer.must_wake = true
  return true
end

local function add(messages, preferred, text)
  bytes_left = bytes_left - #text
  messages[#messages + 1], messages[#messages + 2] = preferred, text
end

local function add_unblock(messages, id, preferred)
  local record = store.load_whole(id)
  if not record then return end
  add(messages, preferred, '{"kind":"unblock","head":{},"data":{"promise":' .. render.promise(record) .. '}}')
end

-- What has settled, for those who listen.
local function take_unblocks(address, messages)
  local key = own_prefix .. 'inbox:' .. address
  local entries = redis.call('XRANGE', key, '-', '+', 'COUNT', limit)
  for _, entry in ipairs(entries) do
    if is_enough() then return end
    redis.call('XDEL', key, entry[1])
    local is_done, problem = pcall(add_unblock, messages, entry[2][2], entry[2][4] or '')
    if not is_done then messages.problem = entry[2][2] .. ': ' .. text_of(problem) end
  end
end

local function add_execute(messages, id)
  local record = store.load(id)
  if not record or record[R.task] ~= 'p' or not store.is_pending(record) then return end
  local _, preferred = queue.address_of(record[R.target])
  timer.arm('t' .. id, now + RETRY_MS)
  local task = '{"id":' .. json.quoted(id) .. ',"version":' .. (record[R.version] or '0') .. '}'
  add(messages, preferred, '{"kind":"execute","head":{},"data":{"task":' .. task .. '}}')
end

-- Tasks that are ready.
local function take_executes(address, messages)
  local key = own_prefix .. 'queue:' .. address
  local found = redis.call('ZRANGE', key, 0, tonumber(limit) - 1)
  in_chunks(found, 'ZREM', key)
  for _, id in ipairs(found) do
    if not pcall(add_execute, messages, id) then timer.arm('t' .. id, now) end
  end
end

local function add_ours(messages, key, id)
  local record = promises.touch_whole(id)
  if not record then return redis.call('ZREM', key, id) end
  redis.call('ZADD', key, int(now + OURS_RETRY_MS), id)
  local task = record[R.task] and ',"task":' .. render.task(record) or ''
  add(messages, '', '{"promise":' .. render.promise(record) .. task .. '}')
end

-- Promises that have something to tell durasleep itself. They stay, and others take them when they were not carried.
local function take_ours(messages)
  local key = own_prefix .. 'queue:' .. queue.OURS
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now_text, 'LIMIT', 0, limit)) do
    if is_enough() then return end
    local problem = attempt(add_ours, messages, key, id)
    if problem then
      redis.call('ZADD', key, int(now + FAILED_MS), id)
      messages.problem = id .. ': ' .. problem
    end
  end
end

local function take(address, messages)
  if address == queue.OURS then return take_ours(messages) end
  take_unblocks(address, messages)
  take_executes(address, messages)
end

redis.call('ZREM', timers, '') -- it goes on while Redis is full
local answers = {}
for i = 3, #ARGV do
  local messages = {}
  local problem = attempt(take, ARGV[i], messages) or messages.problem
  if problem then messages[#messages + 1] = problem end
  answers[#answers + 1] = messages
end
at_end()
return answers
