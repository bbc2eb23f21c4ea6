-- @include text_of

-- Answers `handle(at, size)` for every item of ARGV from `first` on: its size stands at `at`, its values follow. Each
-- stands alone: Lua has no rollback, so an item checks everything before its first write, and its error is its own
-- answer.
local function each_item(first, handle)
  local answers, count, at, last = {}, 0, first, #ARGV
  while at <= last do
    local size = tonumber(ARGV[at])
    local ok, answer = pcall(handle, at, size)
    if not ok then answer = { 'error', text_of(answer) } end
    count = count + 1
    answers[count] = answer
    at = at + size + 1
  end
  return answers
end
