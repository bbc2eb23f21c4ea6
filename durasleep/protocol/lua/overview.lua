-- What one partition has, in numbers, for people and dashboards. It only reads, and of anything at most so much as they
-- can use.
-- Names of groups and of other queues follow: those of its workers are known here.
-- Answers: the time; workers, each as name, heartbeat, the fields of its hash, and "1" if it speaks HTTP; queues with
-- entries, each as name, length, how many are pending, the id of the first that nobody has taken, and consumers with how
-- many each has; the groups that are paused; limits, each as name, total, since when it is paused, slots in use, parked and waiting keys;
-- then timers, those due soon, the next ones; schedules, the next one; halted, the first ones, those that may stand for
-- broken data; "1" if the clock is held.
-- @include keys
-- @include now
-- @include near
local workers_max, halted_max, timers_max, soon_ms = unpack(ARGV, 1, 4)

-- A key of another type has nothing to show: fsck speaks of it.
local function read(...)
  local answer = redis.pcall(...)
  if type(answer) == 'table' and answer.err then return nil end
  return answer
end

local function fields_of(flat)
  local fields = {}
  for i = 1, #flat, 2 do
    fields[flat[i]] = flat[i + 1]
  end
  return fields
end

local groups, queues, is_asked = {}, {}, {}

local function ask_queue(queue)
  if is_asked[queue] then return end
  is_asked[queue] = true
  queues[#queues + 1] = queue
end

local function ask_group(group)
  if is_asked[group] then return end
  groups[#groups + 1] = group
  ask_queue(group)
  for level = 1, LIMIT.levels do
    if int(level) ~= DEFAULT.priority then ask_queue(group .. '!' .. int(level)) end
  end
end

local function read_workers()
  local found = {}
  local members = read('ZRANGE', workers, 0, tonumber(workers_max) - 1, 'REV', 'WITHSCORES') or {}
  for i = 1, #members, 2 do
    local key = worker_prefix .. members[i]
    local v = read('HMGET', key, W.group, W.info, W.knows, W.beat_ms, W.functions, W.lost, W.slots, W.blocked, W.client)
    if v and v[1] then
      ask_group(v[1])
      ask_queue(v[1] .. '/' .. string.match(members[i], '^[^/]+'))
      found[#found + 1] = {
        members[i],
        int(tonumber(members[i + 1])),
        v[1],
        v[2] or '',
        v[3] or '',
        v[4] or '',
        v[5] or '',
        v[6] or '',
        v[7] or '',
        v[8] or '',
        v[9] == '' and '1' or '',
      }
    end
  end
  return found
end

-- What a group of readers has of a stream: how many entries are pending, and the last that it has taken.
local function taken_of(stream, group)
  for _, flat in ipairs(read('XINFO', 'GROUPS', stream) or {}) do
    local one = fields_of(flat)
    if one.name == group then return tonumber(one.pending), one['last-delivered-id'] end
  end
  return 0, nil
end

local function read_queue(queue)
  local stream, group = queue_prefix .. queue, string.match(queue, '^[^/!]+')
  local length = read('XLEN', stream) or 0
  if length == 0 then return nil end
  local pending, last = taken_of(stream, group)
  local consumers = {}
  if pending > 0 then
    local summary = read('XPENDING', stream, group)
    for _, one in ipairs(summary and summary[4] or {}) do
      consumers[#consumers + 1] = one[1]
      consumers[#consumers + 1] = int(tonumber(one[2]))
    end
  end
  local first = pending < length and read('XRANGE', stream, last and '(' .. last or '-', '+', 'COUNT', 1)
  return { queue, length, pending, first and first[1] and first[1][1] or '', consumers }
end

local function read_queues()
  local found = {}
  for _, queue in ipairs(queues) do
    found[#found + 1] = read_queue(queue)
  end
  return found
end

local function read_pauses()
  local found = {}
  for _, group in ipairs(groups) do
    local v = read('HMGET', near('group:' .. group), G.since, G.by)
    if v and v[1] then found[#found + 1] = { group, v[1], v[2] or '' } end
  end
  return found
end

local function read_limits()
  local found = {}
  for _, field in ipairs(read('HKEYS', near(NEAR.functions)) or {}) do
    if string.sub(field, 1, 1) == '\t' and #found < LIMIT.functions_max then
      local name = string.sub(field, 2)
      local key = near(NEAR.limits .. name)
      local v = read('HMGET', key, L.total, L.paused, L.code)
      if v and v[3] then
        found[#found + 1] = {
          name,
          v[1] or '',
          v[2] or '',
          read('HLEN', key .. ':held') or 0,
          read('HGET', key .. ':gate', V.parked) or '0',
          read('ZCARD', key .. ':waiting') or 0,
        }
      end
    end
  end
  return found
end

local function broken_names(names)
  local found = {}
  for i = 1, #names, 2 do
    if string.find(names[i], ': ', 1, true) then found[#found + 1] = names[i] end
  end
  return found
end

for i = 5, #ARGV do
  if string.find(ARGV[i], '[/!]') then
    ask_queue(ARGV[i])
  else
    ask_group(ARGV[i])
  end
end
local peers = read_workers()
local soon = read('ZRANGEBYSCORE', timers, '-inf', int(now + tonumber(soon_ms)), 'LIMIT', 0, timers_max) or {}
local at_halt = read('ZRANGE', halted, 0, tonumber(halted_max) - 1, 'WITHSCORES') or {}
return {
  now_text,
  peers,
  read_queues(),
  read_pauses(),
  read_limits(),
  read('ZCARD', timers) or 0,
  #soon,
  read('ZRANGE', timers, 0, 19, 'WITHSCORES') or {},
  read('ZCARD', schedules) or 0,
  read('ZRANGEBYSCORE', schedules, '-inf', '(' .. LIMIT.due_ms_max, 'WITHSCORES', 'LIMIT', 0, 1) or {},
  read('ZCARD', halted) or 0,
  { at_halt[1], at_halt[2] },
  broken_names(at_halt),
  redis.call('EXISTS', near('clock-held')) == 1 and '1' or '',
}
