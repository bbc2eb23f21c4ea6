-- Keeps what running steps and tasks want to find at their next attempt: one field each, the next one replaces it. It is
-- no part of the journal, and settles nothing.
-- `number` is that of the attempt, `first` that of the first attempt, by which the field is named.
-- Answers per item: "kept", or "settled" if this attempt has ended.
-- @include keys
-- @include each_item
-- @include load
-- @include holder
-- @include full
local consumer = unpack(ARGV, 1, 1)

local function note(at)
  local id, entry, epoch, number, first, payload = unpack(ARGV, at + 1, at + 6)
  if not string.find(first, '^%d[%d.]*$') then error('INVALID entry number ' .. first, 0) end
  local record = load(id, { number })
  if not record or record.entry ~= entry or record.epoch ~= tonumber(epoch) or holder(record) ~= consumer then
    error('FENCED ' .. id .. ' is not held by ' .. consumer, 0)
  end
  if raw_of(record, number) then return 'settled' end
  if is_full then error('FULL Redis has reached its maxmemory: the checkpoint of ' .. id .. ' is not kept yet', 0) end
  redis.call('HSET', record.key, F.checkpoint .. first, payload, F.unquoted, '1')
  return 'kept'
end

return each_item(2, note)
