-- @include budget
-- @include text_of

-- Answers `handle(at, size)` for every item of ARGV from `first` on: its size stands at `at`, its values follow. Each
-- stands alone: Lua has no rollback, so an item checks everything before its first write, and its error is its own
-- answer. Those that come when this call has moved enough bytes are not looked at, and answered "again".
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
