-- A fork is made in parts: "begin" makes it, halted; "entries" adds a part of another journal; "end" lets it go. `key`
-- says which fork it is, so that a repeated or interrupted one goes on, and `reason` is why it is halted meanwhile.
-- Answers per item: "begun" as long as it is being made; "forked" at its end; "done" if it was at its end before.
-- @include keys
-- @include each_item
-- @include due_at
-- @include load
-- @include args
-- @include dispatch
-- @include functions
-- @include full
-- @include at_end
local actions = {}

-- What there is under its id: "begun" or "done", nil if there is nothing. Something else is not touched.
local function standing_of(id, key, reason)
  local record = load(id)
  if not record then return nil end
  if record.idempotency_key ~= key then
    error('NOT_ALLOWED id ' .. id .. ' is in use by something else: nothing was forked', 0)
  end
  local is_made = record.place == PLACE.halted and redis.call('HGET', record.key, F.reason) == reason
  return is_made and 'begun' or 'done', record
end

local function check_full(id)
  if is_full then error('FULL Redis has reached its maxmemory: ' .. id .. ' is not forked', 0) end
end

function actions.begin(id, key, reason, at)
  local func, queue, args, begun, base, lasts_ms, retention, origins, labels, limit = unpack(ARGV, at + 5, at + 14)
  local standing = standing_of(id, key, reason)
  if standing then return standing end
  check_full(id)
  check_queue(queue)
  check_type(halted, 'zset')
  check_type(timers, 'zset')
  declared_of(func) -- and so which labels are indexed
  local record = { id = id, key = promise_prefix .. id, unseen = '', saved_unseen = '' }
  record.sets = { F.func, func, F.args, first_part(args), F.incarnation, now_text, F.idempotency_key, key }
  put(record, F.begun, begun)
  put(record, F.origins, origins)
  put(record, F.unquoted, '1')
  if queue ~= DEFAULT.queue then put(record, F.queue, queue) end
  if base ~= '0' then put(record, F.base, base) end
  if retention ~= '' then put(record, F.retention, retention) end
  if labels ~= '' then put(record, F.labels, labels) end
  if limit ~= '' then put(record, F.limit, '-' .. limit) end
  if lasts_ms ~= '' then
    local deadline = math.min(now + tonumber(lasts_ms), LIMIT.due_ms_max)
    put(record, F.deadline, int(deadline))
    set_timer(id .. '~timeout', deadline)
  end
  halt(record, reason)
  save(record)
  add_parts(record, args)
  if indexed then add_to_index(indexed, id, func, labels, now_text) end
  return 'begun'
end

-- Numbers and raw entries in turn, in the order of their stamps: so each part leaves a journal that could have been.
function actions.entries(id, key, reason, at, last)
  local order = ARGV[at + 5]
  local standing, record = standing_of(id, key, reason)
  if not standing then error('NOT_FOUND there is no promise ' .. id, 0) end
  if standing == 'done' then return standing end
  check_full(id)
  local fields = { F.order, int(math.max(tonumber(order), record.order)) }
  for i = at + 6, last do
    fields[#fields + 1] = ARGV[i]
    spend(#ARGV[i], 0)
  end
  in_chunks(fields, 'HSET', record.key)
  return standing
end

actions['end'] = function(id, key, reason)
  local standing, record = standing_of(id, key, reason)
  if not standing then error('NOT_FOUND there is no promise ' .. id, 0) end
  if standing == 'done' then return standing end
  check_queue(record.queue)
  leave(record)
  record.begins = true
  dispatch(record)
  save(record)
  return 'forked'
end

local function graft(at, size)
  local action, id, key, reason = unpack(ARGV, at + 1, at + 4)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](id, key, reason, at, at + size)
end

local answers = each_item(1, graft)
at_end()
return answers
