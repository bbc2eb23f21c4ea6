-- What most items of a call say alike stands in one argument, its words between tabs: it is read only where it differs
-- from that of the item before. Answers the reader of such arguments, which answers what `pattern` captures.
local function reader_of(pattern)
  local last, words
  return function(text)
    if text ~= last then
      words = { string.match(text, pattern) }
      if not words[1] then error('INVALID words ' .. text, 0) end
      last = text
    end
    return unpack(words)
  end
end
