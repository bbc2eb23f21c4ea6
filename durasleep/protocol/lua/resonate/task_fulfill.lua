return function(data)
  local wrong_data = check.wrong(data, 'id', check.name, 'version', check.count)
  if wrong_data then return reply.bad(wrong_data) end
  local kind, action, action_members = json.action_of(data, request, json.members_of_data(request), 'promise.settle')
  if not kind then return reply.bad(action) end
  local state, value, wrong_action = promises.read_ending(action, action_members)
  if not state then return reply.refused(value, wrong_action) end
  if action.id ~= data.id then return reply.bad('action must have the id of the task') end
  local record, status, sentence = lease.held(data.id, data.version)
  if not record then return reply.refused(status, sentence) end
  promises.settle(record, state, value, now)
  return reply.with_promise(record)
end
