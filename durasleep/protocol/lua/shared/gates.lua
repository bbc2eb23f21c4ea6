-- @include check_type
-- @include load
-- @include dispatch
-- @include near
-- The gates of limits. An execution with a limit passes its gate before it is queued, and holds a slot from then on, or
-- it is parked there, in the order of its coming. The slot belongs to the execution, not to a worker: the script that
-- queues it takes the slot, and the script that takes it out of its place frees it and lets the next ones pass. So no
-- slot is lost with a worker.
--
-- Field `limit` of an execution is "+" if it holds a slot, else "-"; then the name of the limit, "/" and its key.
-- Keys of a limit, behind its own, which has the numbers:
--   :held     which executions hold a slot, each with its key
--   :gate     the counters: slots in use by key as "=<key>", weights as "*<key>", and those of `V`
--   :parked:  for each key the parked executions, those that wake up first, then by priority, then as they came
--   :waiting  the keys with parked executions, by their turn; those that may not go come behind all others
--   :rate:    for each key the instant until which its rate is used up
local made_gates

function gates()
  if made_gates then return made_gates end
  local BLOCKED = 1e12 -- added to the turn of a key whose own slots or rate are used up
  local LEVEL = 1e14 -- parts the sequence of one priority from that of the next
  local RELEASED_MAX, LOOKS_MAX = 64, 64 -- in one script; the firer goes on
  local released = 0
  local known = {} -- limit -> its gate, as this script knows it

  local function read_gate(name)
    local key = near(NEAR.limits .. name)
    check_type(key, 'hash')
    check_type(key .. ':held', 'hash')
    check_type(key .. ':gate', 'hash')
    check_type(key .. ':waiting', 'zset')
    local v = redis.call(
      'HMGET',
      key,
      L.per_key,
      L.total,
      L.rate,
      L.window,
      L.burst,
      L.hold,
      L.paused,
      L.parked_max,
      L.overflow,
      L.code
    )
    local gate = {
      name = name,
      key = key,
      per_key = tonumber(v[1] or ''),
      total = tonumber(v[2] or ''),
      rate = tonumber(v[3] or ''),
      window_ms = tonumber(v[4] or '') or 1000,
      burst = tonumber(v[5] or '') or 1,
      is_for_life = v[6] == 'l',
      is_paused = v[7] or not v[10], -- also after a move, until a worker has declared it
      parked_max = tonumber(v[8] or '') or LIMIT.parked_max,
      overflow = v[9] or '',
      used = redis.call('HLEN', key .. ':held'),
      turn = tonumber(redis.call('HGET', key .. ':gate', V.turn) or '0'),
    }
    known[name] = gate
    return gate
  end

  local function gate_of(name)
    return known[name] or read_gate(name)
  end

  -- The sign, the limit and the key of an execution.
  local function parts_of(limit)
    return string.match(limit, '^([+-])([^/]+)/(.*)$')
  end

  local function set_limit(record, sign, name, key)
    record.limit = sign .. name .. '/' .. key
    put(record, F.limit, record.limit)
  end

  local function counter(gate, field)
    return tonumber(redis.call('HGET', gate.key .. ':gate', field) or '0')
  end

  local function set_counter(gate, field, value)
    if value > 0 then
      redis.call('HSET', gate.key .. ':gate', field, int(value))
    else
      redis.call('HDEL', gate.key .. ':gate', field)
    end
  end

  local function has_room_for_key(gate, key)
    return not gate.per_key or counter(gate, '=' .. key) < gate.per_key
  end

  local function is_open(gate)
    return not gate.is_paused and not (gate.total and gate.used >= gate.total)
  end

  -- Takes a token of the rate (GCRA, the generic cell rate algorithm). Answers nothing, or if there is none the instant
  -- at which there will be one.
  local function take_token(gate, key)
    if not gate.rate then return nil end
    local name, step = gate.key .. ':rate:' .. key, gate.window_ms / gate.rate
    local function use_up(until_ms)
      redis.call('SET', name, string.format('%.3f', until_ms), 'PX', int(math.ceil(until_ms - now) + 1))
    end
    local used_up, latest = math.max(tonumber(redis.call('GET', name) or '0'), now), now + gate.burst * step
    if used_up > latest then -- by a slower rate than that of today, or before the clock was set back
      used_up = latest
      use_up(used_up)
    end
    local at = used_up - (gate.burst - 1) * step
    if at > now then return math.ceil(at) end
    use_up(used_up + step)
    return nil
  end

  local function hold_slot(gate, id, key)
    redis.call('HSET', gate.key .. ':held', id, key)
    set_counter(gate, '=' .. key, counter(gate, '=' .. key) + 1)
    gate.used = gate.used + 1
  end

  local function member_of(gate, key)
    return gate.name .. '/' .. key .. '~gate'
  end

  local timed = {} -- the timers of keys that this script has set, or has removed

  local function set_key_timer(gate, key, at)
    local member = member_of(gate, key)
    timed[member] = true
    set_timer(member, at)
  end

  local function unset_key_timer(gate, key)
    local member = member_of(gate, key)
    timed[member] = false
    unset_timer(member)
  end

  local function is_timed(gate, key)
    local member = member_of(gate, key)
    if timed[member] ~= nil then return timed[member] end
    return redis.call('ZSCORE', timers, member)
  end

  -- When it is the turn of a key: a turn that it had not used comes back with it, so that none gets two.
  local function turn_of(gate, key)
    local turn = tonumber(redis.call('ZSCORE', gate.key .. ':waiting', key) or '0')
    if turn >= BLOCKED then turn = turn - BLOCKED end
    return math.max(turn, gate.turn)
  end

  local function set_waiting(gate, key, may_go, turn)
    turn = turn or turn_of(gate, key)
    redis.call('ZADD', gate.key .. ':waiting', string.format('%.6f', may_go and turn or BLOCKED + turn), key)
  end

  local function parked_of(gate, key)
    return gate.key .. ':parked:' .. key
  end

  -- Nothing is parked for this key any more.
  local function end_waiting(gate, key)
    redis.call('ZREM', gate.key .. ':waiting', key)
    redis.call('HDEL', gate.key .. ':gate', '*' .. key)
    if is_timed(gate, key) then unset_key_timer(gate, key) end
  end

  local function take_out(gate, key, id)
    if redis.call('ZREM', parked_of(gate, key), id) == 0 then return end
    local parked = counter(gate, V.parked) - 1
    set_counter(gate, V.parked, parked)
    if parked <= 0 then -- the turns begin anew, and nothing is kept of a limit at which nothing waits
      redis.call('HDEL', gate.key .. ':gate', V.sequence, V.turn)
      gate.turn = 0
    end
    if redis.call('EXISTS', parked_of(gate, key)) == 0 then end_waiting(gate, key) end
  end

  -- By hand, else as the callers say, else 1.
  local function weight_of(gate, key)
    local weight = redis.call('HGET', gate.key, 'w:' .. key) or redis.call('HGET', gate.key .. ':gate', '*' .. key)
    return math.max(tonumber(weight or '') or 1, 0.001)
  end

  -- The first of a key begins, if it may. Answers whether it has.
  local function release_first(gate, key)
    if released >= RELEASED_MAX or not is_open(gate) or not has_room_for_key(gate, key) then return false end
    local first = redis.call('ZRANGE', parked_of(gate, key), 0, 0, 'WITHSCORES')
    if not first[1] then
      end_waiting(gate, key)
      return false
    end
    local wakes_up = tonumber(first[2]) < LEVEL
    local at = not wakes_up and take_token(gate, key)
    if at then
      set_key_timer(gate, key, at)
      set_waiting(gate, key, false)
      return false
    end
    released = released + 1
    local weight, turn = weight_of(gate, key), turn_of(gate, key)
    take_out(gate, key, first[1])
    local ok, record = pcall(load, first[1])
    if not ok then quarantine('promise:' .. first[1] .. ': ' .. text_of(record)) end
    local is_ours = ok and record and record.state == STATE.pending and record.place == PLACE.parked
    if is_ours then
      hold_slot(gate, record.id, key)
      set_limit(record, '+', gate.name, key)
      enqueue(record)
      save(record)
    end
    if redis.call('EXISTS', parked_of(gate, key)) == 1 then
      set_waiting(gate, key, has_room_for_key(gate, key), gate.total and turn + 1 / weight or turn)
    end
    return true
  end

  local function go_on_later(gate, key)
    if key then return set_key_timer(gate, key, now) end
    set_timer(gate.name .. '/~gates', now)
  end

  -- The keys begin in turn. Each look takes a key out of those that may go, or begins one of its executions: so it ends.
  local function release_in_turn(gate)
    local before, looks = gate.turn, 0
    while released < RELEASED_MAX and looks < LOOKS_MAX and is_open(gate) do
      looks = looks + 1
      local first = redis.call('ZRANGE', gate.key .. ':waiting', 0, 0, 'WITHSCORES')
      if not first[1] or tonumber(first[2]) >= BLOCKED then break end
      gate.turn = math.max(gate.turn, tonumber(first[2]))
      if not release_first(gate, first[1]) and redis.call('ZSCORE', gate.key .. ':waiting', first[1]) then
        set_waiting(gate, first[1], false)
      end
    end
    if gate.turn ~= before and gate.turn > 0 then
      redis.call('HSET', gate.key .. ':gate', V.turn, string.format('%.6f', gate.turn))
    end
    if released >= RELEASED_MAX or looks >= LOOKS_MAX then go_on_later(gate) end
  end

  local function release_of_key(gate, key)
    while release_first(gate, key) do
    end
    if released >= RELEASED_MAX then go_on_later(gate, key) end
  end

  -- There is room again for a key, or for the next one.
  local function release(gate, key)
    if not gate.total then return release_of_key(gate, key) end
    if redis.call('EXISTS', parked_of(gate, key)) == 1 then set_waiting(gate, key, has_room_for_key(gate, key)) end
    release_in_turn(gate)
  end

  local function park(record, gate, key, level, may_go)
    local sequence = counter(gate, V.sequence) + 1
    redis.call('HSET', gate.key .. ':gate', V.sequence, int(sequence), V.parked, int(counter(gate, V.parked) + 1))
    redis.call('ZADD', parked_of(gate, key), int(level * LEVEL + sequence), record.id)
    if may_go or not redis.call('ZSCORE', gate.key .. ':waiting', key) then set_waiting(gate, key, may_go) end
    if record.weight then redis.call('HSET', gate.key .. ':gate', '*' .. key, record.weight) end
    record.place = PLACE.parked
    put(record, F.place, record.place)
  end

  -- 0 for one that wakes up, which needs no token; else its priority.
  local function level_of(record)
    if not record.begins then return 0 end
    return tonumber(string.match(record.queue, '!(%d)$') or DEFAULT.priority)
  end

  -- Whether an execution may be queued now. If not, it is parked. The caller saves.
  local function pass(record)
    local sign, name, key = parts_of(record.limit)
    if not sign then error('CORRUPT ' .. record.key .. ' has limit ' .. record.limit, 0) end
    if sign == '+' then return true end
    local gate, level = gate_of(name), level_of(record)
    local is_behind = redis.call('EXISTS', parked_of(gate, key)) == 1
    local has_room = has_room_for_key(gate, key)
    if is_behind or not has_room or not is_open(gate) then
      local may_go = has_room and (level == 0 or not is_timed(gate, key))
      park(record, gate, key, level, may_go)
      -- Nobody may come by to open a gate that is open already, as after a change of the limit, or if those before it
      -- wait for a token and it needs none.
      if is_behind and may_go and is_open(gate) then go_on_later(gate, key) end
      return false
    end
    local at = level > 0 and take_token(gate, key)
    if at then
      park(record, gate, key, level, false)
      set_key_timer(gate, key, at)
      return false
    end
    hold_slot(gate, record.id, key)
    set_limit(record, '+', name, key)
    return true
  end

  -- It gives up its slot: at its end, or whenever it does not run. The caller saves.
  local function free(record, has_ended)
    local sign, name, key = parts_of(record.limit)
    if sign ~= '+' then return end
    local gate = gate_of(name)
    if gate.is_for_life and not has_ended then return end
    set_limit(record, '-', name, key)
    if redis.call('HDEL', gate.key .. ':held', record.id) == 1 then
      gate.used = gate.used - 1
      set_counter(gate, '=' .. key, counter(gate, '=' .. key) - 1)
    end
    release(gate, key)
  end

  -- It comes from another namespace, where it was at the gate; or it keeps its slot, because it holds that for life.
  local function arrive(record, is_at_gate)
    local sign, name, key = parts_of(record.limit)
    local gate = gate_of(name)
    record.begins = record.epoch == 0
    if is_at_gate then
      record.limit = '-' .. name .. '/' .. key
    elseif sign == '+' and record.state == STATE.pending then
      hold_slot(gate, record.id, key)
    end
  end

  -- It waits here no more.
  local function unpark(record)
    local _, name, key = parts_of(record.limit or '')
    if name then take_out(gate_of(name), key, record.id) end
  end

  -- What happens to a new execution that would be parked where there is no room for more: "refuse", "drop" or
  -- "replace"; nothing if there is room, or if it may begin at once.
  local function overflow_of(name, key)
    local gate = gate_of(name)
    local count = redis.call('ZCARD', parked_of(gate, key))
    if count < gate.parked_max then return nil end
    if count == 0 and is_open(gate) and has_room_for_key(gate, key) then
      if not gate.rate then return nil end
      local used_up = tonumber(redis.call('GET', gate.key .. ':rate:' .. key) or '0')
      if used_up - (gate.burst - 1) * gate.window_ms / gate.rate <= now then return nil end
    end
    return gate.overflow ~= '' and gate.overflow or 'refuse'
  end

  -- The one that has waited longest and has never run makes room for a newer one. The firer ends it: in this script it
  -- may be a child of an execution that is not written yet.
  local function replace_oldest(name, key)
    local gate = gate_of(name)
    local oldest = redis.call('ZRANGEBYSCORE', parked_of(gate, key), int(LEVEL), '+inf', 'LIMIT', 0, 1)
    if not oldest[1] then return end
    take_out(gate, key, oldest[1])
    set_timer(oldest[1] .. '~replaced', now)
  end

  -- Whether it has made room for a newer one: it is parked, and nothing lets it begin. One that has ended since, and was
  -- retried, may wait again.
  local function is_replaced(record)
    local _, name, key = parts_of(record.limit or '')
    return record.place == PLACE.parked and name and not redis.call('ZSCORE', parked_of(gate_of(name), key), record.id)
  end

  -- The timer of a key that waited for its rate, or that has more to do than one script may.
  local function open_key(name, key)
    local gate = gate_of(name)
    unset_key_timer(gate, key)
    release(gate, key)
  end

  -- After a change of the limit, or if there is more to do than one script may: some keys at a time.
  local function open_all(name)
    local gate = gate_of(name)
    unset_timer(name .. '/~gates')
    local fields = gate.key .. ':gate'
    local cursor = redis.call('HGET', fields, V.cursor)
    if cursor then
      local page = redis.call('ZSCAN', gate.key .. ':waiting', cursor, 'COUNT', LOOKS_MAX)
      for i = 1, #page[2], 2 do
        local key = page[2][i]
        set_waiting(gate, key, has_room_for_key(gate, key)) -- it may wait for the token of a rate that was changed
        if not gate.total then release_of_key(gate, key) end
      end
      if page[1] ~= '0' then
        redis.call('HSET', fields, V.cursor, page[1])
        go_on_later(gate)
      elseif released >= RELEASED_MAX then
        redis.call('HSET', fields, V.cursor, '0')
        go_on_later(gate)
      else
        redis.call('HDEL', fields, V.cursor)
      end
    end
    if gate.total then release_in_turn(gate) end
  end

  -- Its numbers have changed: all keys are looked at.
  local function look_again(name)
    known[name] = nil
    local gate = gate_of(name)
    redis.call('HSET', gate.key .. ':gate', V.cursor, '0')
    go_on_later(gate)
  end

  made_gates = {
    pass = pass,
    free = free,
    arrive = arrive,
    unpark = unpark,
    overflow_of = overflow_of,
    replace_oldest = replace_oldest,
    is_replaced = is_replaced,
    open_key = open_key,
    open_all = open_all,
    look_again = look_again,
    gate_of = gate_of,
    parts_of = parts_of,
    parked_of = parked_of,
    hold_slot = hold_slot,
    is_timed = is_timed,
    is_open = is_open,
    has_room_for_key = has_room_for_key,
    counter = counter,
    set_counter = set_counter,
  }
  return made_gates
end
