-- Values that most items of a call share are one argument, its words between tabs: it is read only if it differs from
-- that of the item before. Answers the reader of such arguments, which answers the captures of `pattern`.
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
