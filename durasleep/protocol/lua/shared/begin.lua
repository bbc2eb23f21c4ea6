-- @include each_item
-- @include shared_words
-- @include make
-- @include wait_for
-- @include value_of
-- @include at_end
local may_free = '' -- not empty: what only attaches must pass on a full Redis, too

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

-- kind, queue, start, deadline, inbox, retention, waiter, priority, key, weight, labels, mode, trace, func
local read_words = reader_of(
  '^(%a?)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([%d~-]*)\t([^\t]*)\t(%d?)\t([^\t]*)\t([%d.]*)\t([^\t]*)\t(s?d?%d*)\t([%w_-]*)\t(.*)$'
)

-- Whether it waits for its start, and has never run.
local function is_debounced(record)
  return record.state == STATE.pending and record.place == PLACE.delayed and record.epoch == 0
end

-- A later call replaces the arguments and the deadline of one that waits for its start, and moves that, at most by so many ms as the mode
-- says since it was made.
local function debounce(record, args, start, deadline_at, mode, idempotency_key)
  local made_at = tonumber(record.created or record.incarnation)
  local instant = math.min(due_at(start), made_at + tonumber(string.match(mode, 'd(%d+)$')))
  check_type(timers, 'zset')
  if deadline_at then
    put(record, F.deadline, int(deadline_at))
    set_timer(record.id .. '~timeout', deadline_at)
  elseif record.deadline then
    drop(record, F.deadline)
    unset_timer(record.id .. '~timeout')
  end
  put(record, F.due, int(instant))
  put(record, F.idempotency_key, idempotency_key)
  record.due, record.idempotency_key = int(instant), idempotency_key
  for i = 1, LIMIT.args_parts_max - 1 do
    drop(record, F.args .. i)
  end
  put(record, F.args, first_part(args))
  save(record)
  add_parts(record, args)
  set_timer(record.id .. '~start', instant)
end

local clear_ended

-- What has ended makes room for a new execution under its id. Few calls ask for this, and it takes many functions.
local function clear(ended)
  if not clear_ended then
    -- @include make_room
    clear_ended = function(promise)
      make_room(promise)
      close_families()
    end
  end
  clear_ended(ended)
end

-- Makes it, or attaches to what there is. In `words` the kind is empty to attach only; the waiter is an entry of an
-- execution in another partition. Answers as create.lua says.
local function begin(id, words, args, idempotency_key)
  local incarnation, ended = now_text, nil
  local kind, queue, start, deadline, inbox, retention, waiter, priority, key, weight, labels, mode, trace, func =
    read_words(words)
  if redis.call('EXISTS', promise_prefix .. id) == 1 then
    local found = load(id)
    if not found then error('CORRUPT ' .. promise_prefix .. id .. ' is not a promise', 0) end
    local is_again = mode ~= '' and found.func == func and found.idempotency_key ~= idempotency_key
    local may_restart = is_again and string.sub(mode, 1, 1) == 's' and found.state ~= STATE.pending
    if is_again and string.find(mode, 'd', 1, true) and is_debounced(found) then
      debounce(found, args, start, deadline ~= '' and due_at(deadline) or nil, mode, idempotency_key)
      attach(found, kind, func, '', inbox, waiter)
      return answer('debounced', found)
    elseif not may_restart or (found.waiters or '') ~= '' then
      return attach(found, kind, func, idempotency_key, inbox, waiter)
    end
    incarnation = int(math.max(now, tonumber(found.incarnation) + 1))
    ended = found
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
    trace = trace ~= '' and trace or nil,
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
  if ended then clear(ended) end
  local made = make(id, incarnation, what, start_at, deadline_at)
  if inbox ~= '' then open_inbox(inbox) end
  return made.place == PLACE.parked and answer('created', made) or incarnation
end
