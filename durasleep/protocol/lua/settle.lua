-- Resolves, rejects or cancels a promise from outside. The first outcome stays (law 6).
-- Answers per item: "settled" or "already", the state, the value. A fourth value says that an execution of another
-- partition asks for it, which settles promises only.
-- @include keys
-- @include each_item
-- @include settle_promise

local function settle(at, size)
  local id, state, payload = unpack(ARGV, at + 1, at + 3)
  check_settling(state, payload, id)
  return settle_promise(id, state, payload, size > 3 and { id = '' } or nil)
end

local answers = each_item(1, settle)
close_families()
at_end()
return answers
