return function(data)
  local wrong_data = check.wrong(data, 'awaited', check.name, 'awaiter', check.name)
  if wrong_data then return reply.bad(wrong_data) end
  if data.awaited == data.awaiter then return reply.bad('awaited and awaiter must be different') end
  local awaited = promises.touch_whole(data.awaited)
  if part == 'there' then
    -- Its caller has looked at the awaiter, and says what it is: missing, untargeted, pending or settled.
    local is_what = ARGV[5]
    if not awaited then return reply.refused(404, 'Awaited promise not found') end
    if is_what == 'missing' then return reply.refused(422, 'Awaiter promise not found') end
    if is_what == 'untargeted' then return reply.refused(422, 'Awaiter has no resonate:target') end
    if not store.is_external(awaited) then return reply.refused(422, 'Awaited promise is internal') end
    if is_what == 'pending' then retention.add_reader(awaited, 'x' .. data.awaiter) end
    if store.is_pending(awaited) and is_what == 'pending' and not waiters.add(awaited, 'x' .. data.awaiter) then
      return reply.refused(503, reply.MANY_WAIT)
    end
    return reply.with_promise(awaited)
  end
  local awaiter = promises.touch(data.awaiter)
  if not awaited then return reply.refused(404, 'Awaited promise not found') end
  if not awaiter then return reply.refused(422, 'Awaiter promise not found') end
  if not awaiter[R.target] then return reply.refused(422, 'Awaiter has no resonate:target') end
  if not store.is_external(awaited) then return reply.refused(422, 'Awaited promise is internal') end
  if store.is_pending(awaiter) then retention.add_reader(awaited, 'c' .. awaiter.id) end
  if store.is_pending(awaited) and store.is_pending(awaiter) and not waiters.add(awaited, 'c' .. awaiter.id) then
    return reply.refused(503, reply.MANY_WAIT)
  end
  return reply.with_promise(awaited)
end
