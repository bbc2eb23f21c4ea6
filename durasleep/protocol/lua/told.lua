-- Those of other partitions have heard: waiters of an ending, with the last of which its retention begins, or senders of
-- messages. Their lines are removed.
-- Answers per item: "told".
-- @include keys
-- @include each_item
-- @include kin
-- @include mailbox
-- @include foreign_waiters
local KEPT_MS_MIN = 600000 -- longer than a relay holds a question: a late one must find the ending

local function told(at)
  local id, waiter = unpack(ARGV, at + 1, at + 2)
  if mailbox.told(id, waiter) then return 'told' end
  if not strike(id, 'x' .. waiter) then return 'told' end -- or again: its retention does not begin anew
  local record = load(id)
  if not record or record.state == STATE.pending then return 'told' end
  if #foreign_waiters(record, 1) > 0 then return 'told' end
  if record.waiters == WORD.many and redis.call('EXISTS', waiters_prefix .. id) == 0 then
    redis.call('HDEL', record.key, F.waiters)
  end
  unset_timer(id .. '~tell')
  local keep_ms = time_to_keep(record)
  if keep_ms and keep_ms > 0 and not (is_a(closing, 'zset') and redis.call('ZSCORE', closing, id)) then
    keep_for(record, math.max(keep_ms, KEPT_MS_MIN))
  end
  return 'told'
end

local answers = each_item(1, told)
at_end()
return answers
