return function(data)
  local wrong_data = check.wrong(data, 'id', check.name)
  if wrong_data then return reply.bad(wrong_data) end
  local schedule = schedules.load(data.id)
  if not schedule then return reply.refused(404, 'Schedule not found') end
  return 200, schedules.json(data.id, schedule)
end
