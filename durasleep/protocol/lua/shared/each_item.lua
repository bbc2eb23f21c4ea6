-- @include budget
-- @include text_of

-- Answers `handle(at, size)` for every item of ARGV from `first` on: its size is at `at`, its values follow. Items do
-- not depend on each other. Lua has no rollback, so an item checks everything before its first write, and its error is
-- its own answer. When this call has moved enough bytes, the other items are not looked at, and are answered "again".
local function each_item(first, handle)
  local answers, count, at, last = {}, 0, first, #ARGV
  while at <= last do
    local size = tonumber(ARGV[at])
    local ok, answer
    if bytes_left > 0 then
      ok, answer = pcall(handle, at, size)
    else
      ok, answer = true, { 'again' }
    end
    if not ok then answer = { 'error', text_of(answer) } end
    count = count + 1
    answers[count] = answer
    at = at + size + 1
  end
  return answers
end
