-- A command over many values, in as many calls as it takes: unpack fails near 8,000 values.
local function in_chunks(values, ...)
  local words = { ... }
  local fixed = #words
  for first = 1, #values, 1000 do
    local last = math.min(first + 999, #values)
    for i = first, last do
      words[fixed + i - first + 1] = values[i]
    end
    redis.call(unpack(words, 1, fixed + last - first + 1))
  end
end
