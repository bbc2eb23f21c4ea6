return function(data)
  local wrong_data = check.wrong(data, 'pid', check.name, 'tasks', check.list)
  if wrong_data then return reply.bad(wrong_data) end
  if #data.tasks > LIMIT.resonate_tasks_max then
    return reply.bad('has more than ' .. LIMIT.resonate_tasks_max .. ' tasks')
  end
  for _, task in ipairs(data.tasks) do
    wrong_data = type(task) ~= 'table' and 'each task must be an object'
      or check.wrong(task, 'id', check.name, 'version', check.count)
    if wrong_data then return reply.bad(wrong_data) end
  end
  for _, task in ipairs(data.tasks) do
    local record = lease.held(task.id, task.version)
    if record and record[R.pid] == data.pid then timer.arm('t' .. record.id, now + tonumber(record[R.ttl])) end
  end
  return 200, '{}'
end
