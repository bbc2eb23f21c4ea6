-- @include int

-- The data for the first activation after a dispatch, in one field of the stream entry: a line of numbers (incarnation,
-- created, begun, base, order, unseen, bytes of the arguments; then number and bytes of each journal entry; then its
-- deadline, if it has one), the arguments, the entries, and the function's name to the end. nil if that is too large
-- for an entry.
local function write_snapshot(head, deadline, args, entries, func)
  if deadline then head = head .. '\t' .. deadline end
  local snapshot = head .. '\n' .. args .. entries .. func
  if #snapshot <= LIMIT.snapshot_bytes_max then return snapshot end
end

local function snapshot_of_new(what, incarnation, deadline)
  if #what.args > LIMIT.snapshot_bytes_max then return nil end
  local created = incarnation ~= now_text and now_text or ''
  local head = incarnation .. '\t' .. created .. '\t\t\t\t\t' .. int(#what.args)
  return write_snapshot(head, deadline and int(deadline), what.args, '', what.func)
end

-- For an execution whose hash was read whole, `numbers` being its journal; not if workers have died during it.
local function snapshot_of_known(record, known, numbers)
  if known[F.crash_count] then return nil end
  local args = known[F.args]
  if known[F.more_args] then
    for i = 1, LIMIT.args_parts_max - 1 do
      args = args .. (known[F.args .. i] or '')
    end
  end
  local order = record.order > 0 and int(record.order) or ''
  local head = known[F.incarnation]
    .. '\t'
    .. (known[F.created] or '')
    .. '\t'
    .. (known[F.begun] or '')
    .. '\t'
    .. (known[F.base] or '')
    .. '\t'
    .. order
    .. '\t'
    .. record.unseen
    .. '\t'
    .. int(#args)
  local entries = ''
  for i = 1, #numbers do
    local raw = known[numbers[i]]
    head, entries = head .. '\t' .. numbers[i] .. '\t' .. int(#raw), entries .. raw
  end
  return write_snapshot(head, known[F.deadline], args, entries, known[F.func])
end
