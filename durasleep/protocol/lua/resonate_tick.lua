-- Does what is due, at most `limit` timers: deadlines, leases that have ended, messages to be sent again.
-- Of a schedule only the caller can read the cron line: it makes the promises, and says then which time is the next.
-- And only the caller can tell other partitions. So notes follow, each after the number of its values: "advance", a
-- schedule, the time that was due, the next one and the last one; "settled", a task and what has settled in another
-- partition; "told", the same, from there.
-- Answers the time in ms, and the microseconds of the server's clock; how many timers were due; when the next one is,
-- empty if there is none; then the schedules that are due, each as id, time, cron line, id and timeout of its promise,
-- param and tags as JSON; what is to be told to other partitions, each as a task and what has settled; and the timers
-- that failed, each with what is wrong.
-- @include resonate/keys
local limit, now_ms = unpack(ARGV, 1, 2)
local TELL_AGAIN_MS = 5000
local SCHEDULE_SOON_MS = 5000 -- until a schedule is offered to the next caller
local FAILED_MS = 3600000 -- until a timer that failed is tried again
-- @include resonate/clock
-- @include resonate/promises
-- @include resonate/lease
-- @include resonate/schedules
-- @include resonate/attempt
-- @include resonate/tick
redis.call('ZREM', timers, '') -- it goes on while Redis is full
local at = 3
while at <= #ARGV do
  local size = tonumber(ARGV[at])
  notes[ARGV[at + 1]](unpack(ARGV, at + 2, at + size))
  at = at + size + 1
end
write_changes()
local count, offered, tells, failures = tick(tonumber(limit))
at_end()
local first = redis.call('ZRANGE', timers, 0, 0, 'WITHSCORES')[2]
return { now_text, clock[2], count, first and int(tonumber(first)) or '', offered, tells, failures }
