-- @include resonate/payload
-- @include resonate/tags
-- @include int
-- What is kept of a schedule.
local schedules = {}

function schedules.key(id)
  return own_prefix .. 'schedule:' .. id
end

-- The id of its promise for a time.
function schedules.promise_id(data, at)
  local found = string.gsub(data.promiseId, '{{%.id}}', function()
    return data.id
  end)
  return (string.gsub(found, '{{%.timestamp}}', at))
end

function schedules.load(id)
  local raw, schedule = redis.call('HGETALL', schedules.key(id)), {}
  if #raw == 0 then return nil end
  for i = 1, #raw, 2 do
    schedule[raw[i]] = raw[i + 1]
  end
  return schedule
end

function schedules.json(id, schedule)
  local last = schedule[RS.last]
  return table.concat({
    '{"schedule":{"id":',
    json.quoted(id),
    ',"cron":',
    json.quoted(schedule[RS.cron]),
    ',"promiseId":',
    json.quoted(schedule[RS.promise_id]),
    ',"promiseTimeout":',
    schedule[RS.timeout],
    ',"promiseParam":',
    payload.json(schedule[RS.param]),
    ',"promiseTags":',
    tags.json(schedule[RS.tags], '', schedule[RS.target]),
    ',"createdAt":',
    schedule[RS.created],
    ',"nextRunAt":',
    schedule[RS.due],
    last and ',"lastRunAt":' .. last or '',
    '}}',
  })
end
