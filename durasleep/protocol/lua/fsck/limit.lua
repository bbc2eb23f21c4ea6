local COUNTED_MAX = 5000 -- slots that are counted at once

local function correct_count(gate, key, count)
  local text = 'has ' .. count .. ' slots in use, but its limit counts others'
  found('miscounted', gate.name .. '/' .. key, text, function()
    gates().set_counter(gate, '=' .. key, count)
    gates().look_again(gate.name)
  end)
end

-- The slots in use by key are those that are held.
local function check_counts(gate)
  if gate.used > COUNTED_MAX then return end
  local held, counted, fields = {}, {}, redis.call('HGETALL', gate.key .. ':gate')
  local ids = redis.call('HGETALL', gate.key .. ':held')
  for i = 2, #ids, 2 do
    held[ids[i]] = (held[ids[i]] or 0) + 1
  end
  for i = 1, #fields, 2 do
    local key = string.match(fields[i], '^=(.*)$')
    if key then counted[key] = tonumber(fields[i + 1]) or 0 end
  end
  for key, count in pairs(held) do
    if counted[key] ~= count then correct_count(gate, key, count) end
    counted[key] = nil
  end
  for key in pairs(counted) do
    correct_count(gate, key, 0)
  end
end

local function check_held(gate, id, key)
  local ok, record = pcall(load, id)
  if not ok then return end
  local is_ours = record and record.state == STATE.pending and record.limit == '+' .. gate.name .. '/' .. key
  if is_ours then return end
  found('leaked', id, 'has ended or waits, but a slot of limit ' .. gate.name .. ' is held for it', function()
    redis.call('HDEL', gate.key .. ':held', id)
    gates().set_counter(gate, '=' .. key, gates().counter(gate, '=' .. key) - 1)
    gates().look_again(gate.name)
  end)
end

-- A key with parked executions has no room, or a timer.
local function check_waiting(gate, key)
  local first = redis.call('ZRANGE', gates().parked_of(gate, key), 0, 0)[1]
  local is_late = redis.call('ZSCORE', timers, gate.name .. '/~gates')
  local may_go = gates().is_open(gate) and gates().has_room_for_key(gate, key) and not gates().is_timed(gate, key)
  if first and (is_late or not may_go) then return end
  local text = first and 'has room, but what is parked there does not begin'
    or 'is to have parked executions, but has none'
  found('stuck', gate.name .. '/' .. key, text, function()
    gates().look_again(gate.name)
  end)
end

-- A limit: first its slots, then its keys, page by page.
function checks.limit(name, at)
  local gate = gates().gate_of(name)
  local what, cursor = string.match(at, '^(%a+) (%d+)$')
  if not what then
    what, cursor = 'held', '0'
    check_counts(gate)
  end
  local page = what == 'held' and redis.call('HSCAN', gate.key .. ':held', cursor, 'COUNT', STEP)
    or redis.call('ZSCAN', gate.key .. ':waiting', cursor, 'COUNT', STEP)
  for i = 1, #page[2], 2 do
    if what == 'held' then
      check_held(gate, page[2][i], page[2][i + 1])
    else
      check_waiting(gate, page[2][i])
    end
  end
  if page[1] ~= '0' then return what .. ' ' .. page[1] end
  return what == 'held' and 'waiting 0' or ''
end
