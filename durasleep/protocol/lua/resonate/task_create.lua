return function(data)
  local wrong_data = check.wrong(data, 'pid', check.name, 'ttl', check.positive)
  if wrong_data then return reply.bad(wrong_data) end
  local kind, action, action_members = json.action_of(data, request, json.members_of_data(request), 'promise.create')
  if not kind then return reply.bad(action) end
  local what, wrong_action = promises.read_create(action, action_members)
  if not what then return reply.bad(wrong_action) end
  if not what.target then return reply.bad('action must have the tag resonate:target') end
  if what.starts then return reply.bad('action must not have the tag resonate:delay') end
  local record, ttl = promises.touch_whole(what.id), check.clamp(data.ttl)
  if not record then
    if is_full then return reply.refused(503, FULL) end
    local made, is_dead = promises.make(what)
    if is_dead then return reply.with_task(made, '[]') end
    lease.begin(made, 1, data.pid, ttl)
    return reply.with_task(made, branches.preload(made))
  end
  if not record[R.task] then return reply.refused(422, 'The promise has no resonate:target') end
  if record[R.task] == 'p' then
    lease.acquire(record, data.pid, ttl)
  elseif record[R.task] ~= 'f' then
    return reply.refused(409, 'The task is not pending')
  end
  return reply.with_task(record, branches.preload(record))
end
