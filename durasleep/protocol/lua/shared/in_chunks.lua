local CHUNK_MAX = 1000 -- unpack fails near 8,000 values; an even number, so that pairs stay together

-- A command over many values, in as many calls as needed; `group` comes before them, if there is one.
local function in_chunks(values, command, key, group)
  for first = 1, #values, CHUNK_MAX do
    local last = math.min(first + CHUNK_MAX - 1, #values)
    if group then
      redis.call(command, key, group, unpack(values, first, last))
    else
      redis.call(command, key, unpack(values, first, last))
    end
  end
end
