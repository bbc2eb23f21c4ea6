return function(data)
  local wrong_data =
    check.wrong(data, 'id', check.name, 'version', check.count, 'pid', check.name, 'ttl', check.positive)
  if wrong_data then return reply.bad(wrong_data) end
  local record = promises.touch_whole(data.id)
  if not record or not record[R.task] then return reply.refused(404, 'Task not found') end
  if record[R.task] ~= 'p' or not store.is_pending(record) then return reply.refused(409, 'Task is not pending') end
  if tonumber(record[R.version] or '0') ~= data.version then return reply.refused(409, 'Task has another version') end
  lease.acquire(record, data.pid, check.clamp(data.ttl))
  return reply.with_task(record, branches.preload(record))
end
