-- Does one request of Resonate's protocol: JSON in, JSON out.
-- `now_ms` is the time if the caller simulates, else empty. `next_run_at` is when a schedule that is to be created is
-- due first, empty if its cron line cannot be read.
-- `part` says which part of a request is done here that concerns several partitions, else it is empty: "held" checks
-- it, and that the task is held; "there" adds an awaiter of another partition, or makes a promise for it; "here"
-- suspends a task that waits for promises of other partitions, whose ids follow, and "settled" if one of these has
-- settled.
-- Answers the status, and the envelope of the answer.
-- @include resonate/keys
local request, now_ms, next_run_at, part = unpack(ARGV, 1, 4)
local VERSION = '2026-04-01'
local FULL = 'Redis has reached its maxmemory: this was not done'
-- @include resonate/clock
-- @include full
-- @include resonate/reply
-- @include resonate/checks
-- @include resonate/create
-- @include resonate/ending
-- @include resonate/lease
-- @include resonate/schedules
-- @include resonate/at_end

function reply.envelope(kind, corr_id, status, data)
  return table.concat({
    '{"kind":',
    json.quoted(kind),
    ',"head":{"corrId":',
    json.quoted(corr_id),
    ',"status":',
    status,
    ',"version":"',
    VERSION,
    '"},"data":',
    data,
    '}',
  })
end

-- What does a kind of request; nil for one that is unknown. The functions of the other kinds are not made: a script
-- makes all its functions anew at each call.
local function operation(of)
  if of == 'promise.get' then
    -- @include resonate/promise_get
  elseif of == 'promise.create' then
    -- @include resonate/promise_create
  elseif of == 'promise.settle' then
    -- @include resonate/promise_settle
  elseif of == 'promise.register_callback' then
    -- @include resonate/register_callback
  elseif of == 'promise.register_listener' then
    -- @include resonate/register_listener
  elseif of == 'task.get' then
    -- @include resonate/task_get
  elseif of == 'task.create' then
    -- @include resonate/task_create
  elseif of == 'task.acquire' then
    -- @include resonate/task_acquire
  elseif of == 'task.release' then
    -- @include resonate/task_release
  elseif of == 'task.fulfill' then
    -- @include resonate/task_fulfill
  elseif of == 'task.suspend' then
    -- @include resonate/task_suspend
  elseif of == 'task.fence' then
    -- @include resonate/task_fence
  elseif of == 'task.heartbeat' then
    -- @include resonate/task_heartbeat
  elseif of == 'task.halt' then
    -- @include resonate/task_halt
  elseif of == 'task.continue' then
    -- @include resonate/task_continue
  elseif of == 'schedule.create' then
    -- @include resonate/schedule_create
  elseif of == 'schedule.get' then
    -- @include resonate/schedule_get
  elseif of == 'schedule.delete' then
    -- @include resonate/schedule_delete
  elseif of == 'promise.search' or of == 'task.search' or of == 'schedule.search' then
    return function() -- a server need not have these
      return reply.refused(501, 'Not implemented')
    end
  end
end

local function answer(sent)
  local head = type(sent) == 'table' and sent.head
  if type(head) ~= 'table' then return '', '', reply.bad('The request is not JSON with a kind, a head and data') end
  local kind = type(sent.kind) == 'string' and sent.kind or ''
  local corr_id = type(head.corrId) == 'string' and head.corrId or ''
  local run = operation(kind)
  if not run then return kind, corr_id, reply.bad('kind is unknown') end
  if head.version ~= VERSION then return kind, corr_id, reply.bad('version must be ' .. VERSION) end
  if type(sent.data) ~= 'table' then return kind, corr_id, reply.bad('data must be an object') end
  local is_read, status, data = pcall(run, sent.data)
  if is_read then return kind, corr_id, status, data end
  if text_of(status) == json.TOO_MANY then return kind, corr_id, reply.bad(json.TOO_MANY) end
  error(text_of(status), 0)
end

local is_json, sent = pcall(cjson.decode, request)
local kind, corr_id, status, data = answer(is_json and sent)
at_end()
return { status, reply.envelope(kind, corr_id, status, data) }
