return function(data)
  local wrong_data = check.wrong(data, 'id', check.name)
  if wrong_data then return reply.bad(wrong_data) end
  local record = promises.touch(data.id)
  if not record or not record[R.task] then return reply.refused(404, 'Task not found') end
  if record[R.task] == 'f' then return reply.refused(409, 'Task is fulfilled') end
  if record[R.task] ~= 'h' then
    store.put(record, R.task, 'h', R.pid, false, R.ttl, false)
    timer.disarm('t' .. record.id)
    queue.remove(record)
  end
  return 200, '{}'
end
