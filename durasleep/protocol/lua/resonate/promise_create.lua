-- `what` is what a fence has read already. With "there" a task of another partition makes it by a fence, and its id
-- follows.
return function(data, what)
  local wrong_data
  if not what then
    what, wrong_data = promises.read_create(data, json.members_of_data(request))
    if not what then return reply.bad(wrong_data) end
  end
  local record = promises.touch_whole(data.id)
  if not record then
    if is_full then return reply.refused(503, FULL) end
    record = promises.make_with_task(what)
  end
  if part == 'there' then retention.add_reader(record, 'x' .. ARGV[5]) end
  return reply.with_promise(record)
end
