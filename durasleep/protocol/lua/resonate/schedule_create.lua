-- Whoever calls can read a cron line: `next_run_at` is when it is due first, empty if it cannot be read.

return function(data)
  local members = json.members_of_data(request)
  local wrong_data =
    check.wrong(data, 'id', check.name, 'cron', check.name, 'promiseId', check.name, 'promiseTimeout', check.count)
  if wrong_data then return reply.bad(wrong_data) end
  local param, problem = payload.read(members, '"promiseParam"')
  if not param then return reply.bad('promiseParam ' .. problem) end
  local what = { id = '', timeout = check.INTEGER_MAX }
  problem = promises.read_tags(what, members, '"promiseTags"', data.promiseTags)
  if problem then return reply.bad('promiseTags: ' .. problem) end
  if not what.target then return reply.bad('promiseTags must have resonate:target') end
  local schedule = schedules.load(data.id)
  if schedule then return 200, schedules.json(data.id, schedule) end
  if next_run_at == '' then return reply.bad('cron is not a cron line') end
  problem = check.name(schedules.promise_id(data, next_run_at))
  if problem then return reply.bad('promiseId ' .. problem) end
  if is_full then return reply.refused(503, FULL) end
  schedule = {
    [RS.cron] = data.cron,
    [RS.promise_id] = data.promiseId,
    [RS.timeout] = int(check.clamp(data.promiseTimeout)),
    [RS.param] = param,
    [RS.tags] = what.tags,
    [RS.target] = what.target,
    [RS.created] = now_text,
    [RS.due] = next_run_at,
  }
  for field, value in pairs(schedule) do
    redis.call('HSET', schedules.key(data.id), field, value)
  end
  timer.arm('c' .. data.id, tonumber(next_run_at))
  return 200, schedules.json(data.id, schedule)
end
