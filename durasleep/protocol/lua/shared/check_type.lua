local types = {}

-- Whether a key holds our type of value, or nothing; and what it holds. The server is asked once in a script.
local function is_a(key, wanted)
  local found = types[key]
  if not found then
    found = redis.call('TYPE', key)
    found = type(found) == 'table' and found.ok or found
    types[key] = found
  end
  return found == 'none' or found == wanted, found
end

-- Refuses a key of another type, before anything is written.
local function check_type(key, wanted)
  local fits, found = is_a(key, wanted)
  if not fits then error('CORRUPT ' .. key .. ' holds a ' .. found .. ', not a ' .. wanted, 0) end
end
