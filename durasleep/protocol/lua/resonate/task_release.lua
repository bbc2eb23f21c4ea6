return function(data)
  local wrong_data = check.wrong(data, 'id', check.name, 'version', check.count)
  if wrong_data then return reply.bad(wrong_data) end
  local record, status, sentence = lease.held(data.id, data.version)
  if not record then return reply.refused(status, sentence) end
  local is_refused = lease.is_refused(record)
  lease.release(record, is_refused and now + LIMIT.resonate_refused_ms)
  return 200, '{}'
end
