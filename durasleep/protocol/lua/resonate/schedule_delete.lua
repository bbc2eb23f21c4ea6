return function(data)
  local wrong_data = check.wrong(data, 'id', check.name)
  if wrong_data then return reply.bad(wrong_data) end
  if redis.call('DEL', schedules.key(data.id)) == 0 then return reply.refused(404, 'Schedule not found') end
  timer.disarm('c' .. data.id)
  return 200, '{}'
end
