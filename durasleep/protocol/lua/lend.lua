-- Passes a lease on to another consumer, or extends it if that is the same one. Such a consumer is no process that we
-- know: it stands for one lease of a worker that speaks HTTP, and lives as long as somebody extends the lease in time. It
-- has no connection, no inbox and no functions: it fires nothing, and is offered nothing.
-- Without an `entry` it is only noted that such a worker waits.
-- Answers: the time, "1" if the execution was canceled, its deadline.
-- @include keys
-- @include load
-- @include holder
-- @include now
local consumer, heir, group, info, knows, beat_ms, ttl_ms, queue, entry, id, epoch = unpack(ARGV, 1, 11)

local record
if entry ~= '' then
  record = load(id, { '0' })
  if not record or record.entry ~= entry or record.epoch ~= tonumber(epoch) or holder(record) ~= consumer then
    error('FENCED ' .. id .. ' is not held by ' .. consumer, 0)
  end
end
redis.call('ZREM', timers, '') -- a lease is extended on a full Redis, too
if record and heir ~= consumer then
  redis.call('XGROUP', 'CREATECONSUMER', queue_prefix .. group, group, heir) -- there the others of the group look for it
  redis.call('XCLAIM', queue_prefix .. queue, group, heir, 0, entry, 'JUSTID')
end
redis.call('ZADD', workers, now_text, heir)
local me = worker_prefix .. heir
redis.call('HSET', me, W.client, '', W.group, group, W.info, info, W.knows, knows, W.beat_ms, beat_ms)
redis.call('HSET', me, W.functions, '', W.lost, '0', W.slots, '', W.blocked, '0')
redis.call('PEXPIRE', me, ttl_ms)
local is_canceled = record and raw_of(record, '0')
return { now_text, is_canceled and '1' or '', record and record.deadline or '' }
