return function(data)
  local wrong_data = check.wrong(data, 'awaited', check.name, 'address', check.address)
  if wrong_data then return reply.bad(wrong_data) end
  local awaited = promises.touch_whole(data.awaited)
  if not awaited then return reply.refused(404, 'Awaited promise not found') end
  if not store.is_external(awaited) then return reply.refused(422, 'Awaited promise is internal') end
  if store.is_pending(awaited) then
    if is_full then return reply.refused(503, FULL) end
    if not waiters.add(awaited, 'l' .. data.address) then return reply.refused(503, reply.MANY_WAIT) end
  end
  return reply.with_promise(awaited)
end
