-- @include resonate/render
-- Answers of an operation: a status, and data as JSON.
local reply = { MANY_WAIT = 'The promise has as many waiters as one may have' }

function reply.refused(status, text)
  return status, json.quoted(text)
end

function reply.bad(text)
  return reply.refused(400, text)
end

function reply.with_promise(record)
  return 200, '{"promise":' .. render.promise(record) .. '}'
end

function reply.with_task(record, preload)
  return 200,
    '{"task":' .. render.task(record) .. ',"promise":' .. render.promise(record) .. ',"preload":' .. preload .. '}'
end
