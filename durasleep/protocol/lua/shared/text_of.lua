-- An error caught in Lua as one line, its code first: Redis 6.2 puts the position before it and a line end behind.
local function text_of(problem)
  local text = type(problem) == 'table' and problem.err or tostring(problem)
  text = string.match(text, '^.-: %-(%u%u+ .*)$') or text
  return (string.gsub(text, '[\r\n]+', ' '))
end
