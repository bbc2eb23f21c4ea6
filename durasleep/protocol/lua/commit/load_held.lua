-- The entries of a commit, as many as it answers: they are gathered in one table for all items. Ops follow the item's
-- fixed part: the number of values, then kind, number and the rest.
local named = {}

local function gather_numbers(op, stop, seen_number, asked)
  local n = 0
  if seen_number ~= '' then
    n = 1
    named[1] = seen_number
  end
  if asked ~= '' then
    n = n + 1
    named[n] = asked
  end
  while op <= stop do
    local number = ARGV[op + 2]
    if not string.find(number, '^%d[%d.]*$') then error('INVALID entry number ' .. number, 0) end
    n = n + 1
    named[n] = number
    op = op + ARGV[op] + 1
  end
  return n
end

-- The execution of an item: the fields that every commit needs; the order, if it may write to the journal; and for an
-- ending its waiters and its retention. The first `count` of `named` are read along. A promise that has ended has no
-- entry.
local query = { 'HMGET', '', F.entry, F.epoch, F.incarnation, F.unseen, F.crash_count, F.limit } -- for all items, too

local function load_held(id, queue, may_journal, is_ending, count)
  local key, n = promise_prefix .. id, 8
  query[2] = key
  if may_journal then
    query[9], n = F.order, 9
  end
  if is_ending then
    query[n + 1], query[n + 2], query[n + 3], query[n + 4] = F.waiters, F.deadline, F.family, F.retention
    query[n + 5], query[n + 6], query[n + 7] = F.func, F.created, F.extras
    n = n + 7
  end
  for i = 1, count do
    query[n + i] = named[i]
  end
  local v = redis.pcall(unpack(query, 1, n + count))
  if v.err then seldom().raise_unreadable(key) end
  if not v[3] then return nil end
  n = n - 2
  local known, epoch, order = {}, tonumber(v[2] or '0'), may_journal and tonumber(v[7] or '0') or 0
  if not (epoch and order) then error('CORRUPT ' .. key .. ' is not a promise of ours', 0) end
  for i = 1, count do
    known[named[i]] = v[n + i]
  end
  -- No more than sixteen fields, including those that `save` uses: Lua doubles a table that grows beyond. So an
  -- execution that ends without having asked for anything gets neither order nor epoch, which it does not need any
  -- more.
  local record
  if is_ending and not may_journal then
    record = {
      id = id,
      key = key,
      queue = queue,
      known = known,
      incarnation = v[3],
      entry = v[1],
      unseen = v[4] or '',
      saved_unseen = v[4] or '',
      waiters = v[n - 6],
      deadline = v[n - 5],
      family = v[n - 4],
      retention = v[n - 3],
      func = v[n - 2],
      created = v[n - 1],
    }
  else
    record = {
      id = id,
      key = key,
      queue = queue,
      known = known,
      incarnation = v[3],
      epoch = epoch,
      entry = v[1],
      order = order,
      unseen = v[4] or '',
      saved_unseen = v[4] or '',
    }
    if is_ending then
      record.waiters, record.deadline, record.family = v[n - 6], v[n - 5], v[n - 4]
      record.retention, record.func, record.created = v[n - 3], v[n - 2], v[n - 1]
    end
  end
  if v[5] then record.crash_count = tonumber(v[5]) end
  if v[6] then record.limit = v[6] end
  if is_ending and v[n] then record.extras = v[n] end
  return record, epoch
end

-- The fence: stream entry and epoch are those that the worker has read, and the entry is pending to this very consumer.
local function check_fence(record, held_epoch, id, queue, entry, epoch)
  if not record then error('FENCED there is no ' .. id, 0) end
  if record.entry ~= entry or held_epoch ~= tonumber(epoch) then
    error('FENCED ' .. id .. ' has ended, or has been dispatched again', 0)
  end
  if not is_held(queue, entry) then error('FENCED ' .. id .. ' is not held by ' .. consumer, 0) end
end

-- The worker's memory must be this server's history: after a rollback it may know events that never happened here.
-- `asked` is the last number it has asked for: a pending entry has no stamp that identifies it.
local function check_history(record, seen, seen_number, asked)
  if asked ~= '' and not raw_of(record, asked) then
    error('FENCED the journal of ' .. record.id .. ' has no entry ' .. asked, 0)
  end
  if seen == '0' then return end
  local raw = raw_of(record, seen_number)
  if raw and #raw > LIMIT.snapshot_bytes_max then spend(#raw, 0) end
  if not raw or not has_stamp(raw, seen) then
    error('FENCED the journal of ' .. record.id .. ' has no stamp ' .. seen, 0)
  end
end
