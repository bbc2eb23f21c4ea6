-- What running steps and tasks publish: one field each, the next value replaces it. It is no part of the journal, and
-- settles nothing.
-- `number` is that of the attempt, `first` that of the first attempt of a step, empty for a task.
-- Answers per item: "published", or "settled" if this attempt has ended.
-- @include keys
-- @include each_item
-- @include load
-- @include holder
-- @include full
-- @include extras
-- @include notify_inbox
local consumer = unpack(ARGV, 1, 1)

local function publish(at)
  local id, entry, epoch, number, first, payload = unpack(ARGV, at + 1, at + 6)
  if not string.find(number .. first, '^%d[%d.]*$') then error('INVALID entry number ' .. first, 0) end
  local record = load(id, { number })
  if not record or record.entry ~= entry or record.epoch ~= tonumber(epoch) or holder(record) ~= consumer then
    error('FENCED ' .. id .. ' is not held by ' .. consumer, 0)
  end
  if raw_of(record, number) then return 'settled' end
  if is_full then error('FULL Redis has reached its maxmemory: ' .. id .. ' publishes nothing', 0) end
  extras.publish(record, VIEW.step .. first, payload)
  save(record)
  return 'published'
end

local answers = each_item(2, publish)
write_inboxes()
return answers
