return function(data)
  local wrong_data = check.wrong(data, 'id', check.name)
  if wrong_data then return reply.bad(wrong_data) end
  local record = promises.touch_whole(data.id)
  if not record then return reply.refused(404, 'Promise not found') end
  return reply.with_promise(record)
end
