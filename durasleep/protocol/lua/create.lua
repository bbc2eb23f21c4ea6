-- Makes executions and bare promises, or attaches to those that exist.
-- An item that only attaches makes nothing: it is answered on a full Redis, too. `may_free` says that all items are
-- like this.
-- Answers per item: for a new promise its incarnation, if it was not parked; else disposition, state, place,
-- incarnation, function, value. Where the limit of its function drops it, nothing is made: "dropped".
-- @include keys
-- @include begin
may_free = ARGV[1]

local function create(at)
  local id, words, args, idempotency_key = unpack(ARGV, at + 1, at + 4)
  return begin(id, words, args, idempotency_key)
end

local answers = each_item(2, create)
at_end()
return answers
