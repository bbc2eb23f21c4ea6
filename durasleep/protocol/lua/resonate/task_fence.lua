-- Makes or settles a promise on behalf of a task, if the task is held.
return function(data)
  local wrong_data = check.wrong(data, 'id', check.name, 'version', check.count)
  if wrong_data then return reply.bad(wrong_data) end
  local kind, action, action_members =
    json.action_of(data, request, json.members_of_data(request), 'promise.create', 'promise.settle')
  if not kind then return reply.bad(action) end
  if action.id == data.id then return reply.bad('action must not have the id of the task') end
  local corr_id = type(data.action.head) == 'table' and data.action.head.corrId
  local what, status, sentence
  if kind == 'promise.create' then
    what, sentence = promises.read_create(action, action_members)
    status = 400
  else
    what, status, sentence = promises.read_ending(action, action_members)
  end
  if not what then return reply.refused(status, sentence) end
  local record, held_status, held_sentence = lease.held(data.id, data.version)
  if not record then return reply.refused(held_status, held_sentence) end
  if part == 'held' then return 200, '{}' end
  local inner_status, inner = operation(kind)(action, what, status)
  local made = kind == 'promise.create' and store.load(action.id)
  if made then retention.add_reader(made, 'c' .. record.id) end
  if inner_status == 400 or inner_status == 503 then return inner_status, inner end
  return 200,
    '{"action":'
      .. reply.envelope(kind, type(corr_id) == 'string' and corr_id or '', inner_status, inner)
      .. ',"preload":[]}'
end
