-- `what` is what a fence has read already.
return function(data, what)
  local wrong_data
  if not what then
    what, wrong_data = promises.read_create(data, json.members_of_data(request))
    if not what then return reply.bad(wrong_data) end
  end
  local record = promises.touch_whole(data.id)
  if record then return reply.with_promise(record) end
  if is_full then return reply.refused(503, FULL) end
  return reply.with_promise(promises.make_with_task(what))
end
