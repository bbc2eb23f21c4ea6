return function(data)
  local wrong_data = check.wrong(data, 'id', check.name)
  if wrong_data then return reply.bad(wrong_data) end
  local record = promises.touch(data.id)
  if not record or not record[R.task] then return reply.refused(404, 'Task not found') end
  return 200, '{"task":' .. render.task(record) .. '}'
end
