-- `state` and `value` are what a fence has read already.
return function(data, state, value)
  local sentence
  if not state then
    state, value, sentence = promises.read_ending(data, json.members_of_data(request))
    if not state then return reply.refused(value, sentence) end
  end
  local record = promises.touch_whole(data.id)
  if not record then return reply.refused(404, 'Promise not found') end
  if store.is_pending(record) then promises.settle(record, state, value, now) end
  return reply.with_promise(record)
end
