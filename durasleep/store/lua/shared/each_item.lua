-- @include text_of
local UNPACKED_MAX = 1000 -- unpack fails near 8,000 values

-- Answers `handle(item)` for every item of ARGV from `first` on. Each stands alone: Lua has no
-- rollback, so an item checks everything before its first write, and its error is its own answer.
local function each_item(first, handle)
  local answers, at = {}, first
  while at <= #ARGV do
    local size = tonumber(ARGV[at])
    local item = { unpack(ARGV, at + 1, at + math.min(size, UNPACKED_MAX)) }
    for i = UNPACKED_MAX + 1, size do
      item[i] = ARGV[at + i]
    end
    at = at + size + 1
    local ok, answer = pcall(handle, item)
    if not ok then answer = { 'error', text_of(answer) } end
    answers[#answers + 1] = answer
  end
  return answers
end
