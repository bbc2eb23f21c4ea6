-- Notes that a worker is alive. Its entries are leased to it as long as it sends heartbeats, and are not taken away
-- before.
-- `held` follows as triples of queue, entry and id. Answers: seconds and microseconds of the server's clock, rank, last
-- ids of `wake` and of the worker's inbox, lost leases (queue and entry), the order of its executions (id and stamp),
-- entries that are pending to it but not named (queue and entry), the workers (name, beat, connection, ms between two
-- beats), the group's consumers, the queues of other levels with entries, "1" if the group is paused.
-- @include keys
-- @include record
-- @include holder
-- @include in_chunks
-- @include last_id
-- @include check_type
-- @include now
-- @include near
local consumer, group, client, info, knows, ttl_ms, beat_ms, functions, lost_threads, slots, blocked_ms =
  unpack(ARGV, 1, 11)

redis.call('ZREM', timers, '') -- a worker sends heartbeats on a full Redis, too
redis.call('ZADD', workers, now_text, consumer)
local me = worker_prefix .. consumer
redis.call(
  'HSET',
  me,
  W.client,
  client,
  W.group,
  group,
  W.info,
  info,
  W.knows,
  knows,
  W.beat_ms,
  beat_ms,
  W.functions,
  functions,
  W.lost,
  lost_threads,
  W.slots,
  slots,
  W.blocked,
  blocked_ms
)
redis.call('PEXPIRE', me, ttl_ms)
local inbox = inbox_prefix .. consumer
if redis.call('EXISTS', inbox) == 0 then redis.call('XADD', inbox, '*', 'o', '') end
redis.call('PEXPIRE', inbox, ttl_ms)

local pending = {}
local queues, levels = { group, group .. '/' .. string.match(consumer, '^[^/]+') }, {}
local others, streams = {}, {}
for level = 1, LIMIT.levels do
  if int(level) ~= DEFAULT.priority then
    others[#others + 1] = group .. '!' .. int(level)
    streams[#streams + 1] = queue_prefix .. others[#others]
  end
end
if redis.call('EXISTS', unpack(streams)) > 0 then
  for _, queue in ipairs(others) do
    queues[#queues + 1] = queue
    local length = redis.pcall('XLEN', queue_prefix .. queue)
    if type(length) == 'number' and length > 0 then levels[#levels + 1] = queue end
  end
end
for _, queue in ipairs(queues) do
  local found = redis.pcall('XPENDING', queue_prefix .. queue, group, '-', '+', LIMIT.pending_max, consumer)
  if not found.err then
    for _, one in ipairs(found) do
      pending[queue .. ' ' .. one[1]] = { queue, one[1] }
    end
  end
end

local lost, orders, unnamed = {}, {}, {}
for i = 12, #ARGV, 3 do
  local queue, entry, id = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local name = queue .. ' ' .. entry
  local found = redis.pcall('HMGET', promise_prefix .. id, F.entry, F.order) -- one broken hash loses one entry
  local is_ours = pending[name] or holder({ queue = queue, entry = entry }) == consumer -- beyond `pending_max`
  if found.err or found[1] ~= entry or not is_ours then
    lost[#lost + 1] = queue
    lost[#lost + 1] = entry
  end
  orders[#orders + 1] = id
  orders[#orders + 1] = not found.err and found[2] or '0'
  pending[name] = nil
end
for _, one in pairs(pending) do
  unnamed[#unnamed + 1] = one[1]
  unnamed[#unnamed + 1] = one[2]
end

local consumers = {}
local known = redis.pcall('XINFO', 'CONSUMERS', queue_prefix .. group, group)
if not known.err then
  if #known > LIMIT.consumers_max then -- those whose time runs out first: so the dead come before all others
    local ends = {}
    for _, one in ipairs(known) do
      local beat = redis.call('ZSCORE', workers, one[2]) or '0'
      local between = redis.pcall('HGET', worker_prefix .. one[2], W.beat_ms)
      local between_ms = type(between) == 'string' and tonumber(between) or 0
      ends[one[2]] = tonumber(beat) + LIMIT.beats_missed * between_ms
    end
    table.sort(known, function(a, b)
      return ends[a[2]] < ends[b[2]]
    end)
  end
  for i = 1, math.min(#known, LIMIT.consumers_max) do
    consumers[i] = known[i][2]
  end
end

-- Rank by name: it is stable from beat to beat, and different for all workers with a recent heartbeat. A worker whose
-- own key has expired is removed: for a group that is not used any more, nobody else would do it.
local peers, rank, is_noted, gone = {}, 0, {}, {}

local function note_member(name, beat)
  if is_noted[name] then return end
  is_noted[name] = true
  local found = redis.pcall('HMGET', worker_prefix .. name, W.client, W.beat_ms)
  if found.err or not found[1] then
    gone[#gone + 1] = name
    return
  end
  local between_ms = tonumber(found[2] or '') or tonumber(beat_ms) or 0
  -- In both directions: before the server's clock was set back, their heartbeats had times that are now in the future.
  -- Those without a connection (see lend.lua) fire nothing.
  local is_fresh = math.abs(now - tonumber(beat)) < LIMIT.beats_missed * between_ms
  if name < consumer and found[1] ~= '' and is_fresh then rank = rank + 1 end
  local n = #peers
  peers[n + 1], peers[n + 2], peers[n + 3], peers[n + 4] = name, int(tonumber(beat)), found[1], found[2] or ''
end

local function note_members(members)
  for i = 1, #members, 2 do
    note_member(members[i], members[i + 1])
  end
end

note_members(redis.call('ZRANGE', workers, 0, LIMIT.workers_max - 1, 'REV', 'WITHSCORES'))
if redis.call('ZCARD', workers) > LIMIT.workers_max then
  note_members(redis.call('ZRANGE', workers, 0, LIMIT.struck_max - 1, 'WITHSCORES'))
  for _, name in ipairs(consumers) do -- the consumers that this worker judges, however old their heartbeats are
    local beat = redis.call('ZSCORE', workers, name)
    if beat then note_member(name, beat) end
  end
end
in_chunks(gone, 'ZREM', workers)

local paused = redis.pcall('HGET', near('group:' .. group), G.since)

return {
  clock[1],
  clock[2],
  rank,
  is_a(wake, 'stream') and last_id(wake) or '',
  last_id(inbox),
  lost,
  orders,
  unnamed,
  peers,
  consumers,
  levels,
  type(paused) == 'string' and '1' or '',
}
