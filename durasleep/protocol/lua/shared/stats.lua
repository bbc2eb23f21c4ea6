-- @include now
-- @include int

-- How many executions of each function have ended in which state, and how long they took together, minute by minute: for
-- people and dashboards. Counted while a script runs, and written once at its end.
local count_ending, write_stats
do
  local MINUTE_MS = 60000
  local KEPT_MS = 93600000 -- 26 hours: a day, and what it takes to compare it with the day before
  local FIELDS_MAX = 256
  local ended = {} -- field -> by how much it grows

  local function count_up(field, by)
    ended[field] = (ended[field] or 0) + by
  end

  function count_ending(func, state, created)
    count_up(func .. '\t' .. state, 1)
    count_up(func .. '\tms', math.max(now - tonumber(created), 0))
  end

  -- A minute has room for so many fields: what comes later is counted under "\tother". Answers whether anything is.
  local function make_room_in(key, fields, values)
    local room = FIELDS_MAX - redis.call('HLEN', key)
    for i = 1, #fields do
      if not values[i] then room = room - 1 end
    end
    if room >= 0 then return false end
    for i = 1, #fields do
      if not values[i] then
        count_up('\tother' .. string.match(fields[i], '\t[^\t]*$'), ended[fields[i]])
        ended[fields[i]] = nil
      end
    end
    return true
  end

  local function fields_of_endings()
    local fields = {}
    for field in pairs(ended) do
      fields[#fields + 1] = field
    end
    return fields
  end

  function write_stats()
    if next(ended) == nil then return end
    -- Not by `near`: commit.lua makes that late, and its functions are as many as Lua can have.
    local key = string.match(timers, '^{[^}]*}:') .. NEAR.stats .. int(math.floor(now / MINUTE_MS))
    local fields = fields_of_endings()
    local values = redis.pcall('HMGET', key, unpack(fields))
    if values.err then return end -- a key of another type: nothing is counted, and nothing fails
    local is_new = false
    for i = 1, #fields do
      is_new = is_new or not values[i]
    end
    if is_new and make_room_in(key, fields, values) then
      fields = fields_of_endings()
      values = redis.call('HMGET', key, unpack(fields))
    end
    local changes = {}
    for i = 1, #fields do
      changes[2 * i - 1], changes[2 * i] = fields[i], int((tonumber(values[i] or '') or 0) + ended[fields[i]])
    end
    redis.call('HSET', key, unpack(changes))
    if is_new then redis.call('PEXPIRE', key, KEPT_MS) end
    ended = {}
  end
end
