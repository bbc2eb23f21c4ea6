-- @include record
-- The consumer that holds an execution's current entry, or nil: the entry waits for a reader, or there is none.
local function holder(record)
  if not record.entry then return nil end
  local pending =
    redis.pcall('XPENDING', queue_prefix .. record.queue, group_of(record.queue), record.entry, record.entry, 1)
  if pending.err or not pending[1] then return nil end -- NOGROUP: nobody has ever read here
  return pending[1][2]
end
