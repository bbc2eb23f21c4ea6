-- Makes executions and bare promises, or attaches to those that exist.
-- An item that only attaches makes nothing: it is answered on a full Redis, too. `may_free` says that all items are
-- like this.
-- Answers per item: for a new promise its incarnation, if it was not parked; else disposition, state, place,
-- incarnation, function, value. Where the limit of its function drops it, nothing is made: "dropped".
-- @include keys
-- @include each_item
-- @include shared_words
-- @include make
-- @include wait_for
-- @include value_of
-- @include at_end
local may_free = unpack(ARGV, 1, 1)

local function answer(disposition, record)
  local value = record.state ~= STATE.pending and value_of(record) or ''
  return { disposition, record.state, record.place or '', record.incarnation, record.func or '', value }
end

local function attach(record, kind, func, idempotency_key, inbox, waiter)
  if kind ~= '' and (record.kind ~= kind or record.func ~= func) then
    check_known(record)
    local held = record.kind == KIND.execution and 'function ' .. record.func or 'a promise'
    local asked = kind == KIND.execution and 'function ' .. func or 'a promise'
    error('OTHER_FUNCTION id ' .. record.id .. ' belongs to ' .. held .. ', not to ' .. asked, 0)
  end
  if record.state == STATE.pending and inbox ~= '' then
    if may_free ~= '' then
      redis.call('ZREM', timers, '') -- a first write that frees memory lets the others pass
      may_free = ''
    end
    wait_for(record, 'i' .. inbox)
    open_inbox(inbox)
  end
  if record.state == STATE.pending and waiter ~= '' then wait_for(record, 'x' .. waiter) end
  if record.idempotency_key and record.idempotency_key == idempotency_key then return answer('created', record) end
  return answer(record.state == STATE.pending and 'attached' or 'finished', record)
end

-- kind, queue, start, deadline, inbox, retention, waiter, priority, key, weight, labels, func
local read_words = reader_of(
  '^(%a?)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([%d~-]*)\t([^\t]*)\t(%d?)\t([^\t]*)\t([%d.]*)\t([^\t]*)\t(.*)$'
)

-- `kind` is empty to attach only. `waiter` is an entry of an execution in another partition.
local function create(at)
  local id, words, args, idempotency_key = unpack(ARGV, at + 1, at + 4)
  local kind, queue, start, deadline, inbox, retention, waiter, priority, key, weight, labels, func = read_words(words)
  if redis.call('EXISTS', promise_prefix .. id) == 1 then
    local found = load(id)
    if found then return attach(found, kind, func, idempotency_key, inbox, waiter) end
    error('CORRUPT ' .. promise_prefix .. id .. ' is not a promise', 0)
  end
  if kind == '' then error('NOT_FOUND there is no promise ' .. id, 0) end
  local what = {
    kind = kind,
    func = func,
    queue = queue,
    args = args,
    idempotency_key = idempotency_key,
    retention = retention,
    priority = priority,
    key = key,
    weight = weight,
    labels = labels,
  }
  if kind == KIND.execution then complete(what) end
  if what.limit then
    local refused, why = refusal_of(id, what, start ~= '')
    if refused == 'drop' then return { 'dropped', STATE.pending, '', '0', func, '' } end
    if refused then
      error((refused == 'refuse' and 'LIMIT_FULL ' or 'INVALID ') .. why .. ': ' .. id .. ' was not started', 0)
    end
  end
  if inbox ~= '' then what.waiters = 'i' .. inbox .. '\n' end
  if waiter ~= '' then what.waiters = (what.waiters or '') .. 'x' .. waiter .. '\n' end
  local start_at = start ~= '' and due_at(start) or nil
  local deadline_at = deadline ~= '' and due_at(deadline) or nil
  if kind == KIND.execution then check_queue(what.queue) end
  if start_at or deadline_at then check_type(timers, 'zset') end
  local made = make(id, now_text, what, start_at, deadline_at)
  if inbox ~= '' then open_inbox(inbox) end
  return made.place == PLACE.parked and answer('created', made) or now_text
end

local answers = each_item(2, create)
at_end()
return answers
