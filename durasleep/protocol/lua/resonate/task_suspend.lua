-- What is wrong with the promises that a task will wait for.
local function wrong_actions(data)
  local wrong_data = check.wrong(data, 'id', check.name, 'version', check.count, 'actions', check.list)
  if wrong_data then return wrong_data end
  if #data.actions == 0 and part ~= 'here' and part ~= 'settled' then return 'actions must not be empty' end
  if #data.actions > LIMIT.resonate_actions_max then
    return 'has more than ' .. LIMIT.resonate_actions_max .. ' actions'
  end
  for _, action in ipairs(data.actions) do
    if type(action) ~= 'table' or action.kind ~= 'promise.register_callback' or type(action.data) ~= 'table' then
      return 'each action must be promise.register_callback'
    end
    wrong_data = check.wrong(action.data, 'awaited', check.name, 'awaiter', check.name)
    if wrong_data then return wrong_data end
    if action.data.awaiter ~= data.id then return 'each awaiter must be the task' end
    if action.data.awaited == data.id then return 'a task must not wait for itself' end
  end
end

-- Adds a task of another partition to those who wait.
local function add_awaiter(data)
  local is_any_settled = false
  for _, action in ipairs(data.actions) do
    local other = promises.touch(action.data.awaited)
    if not other then return reply.refused(422, 'Awaited promise not found') end
    if not store.is_external(other) then return reply.refused(422, 'Awaited promise is internal') end
    retention.add_reader(other, 'x' .. data.id) -- it may be asked for again, also when it has settled
    if not store.is_pending(other) then
      is_any_settled = true
    elseif not waiters.add(other, 'x' .. data.id) then
      return reply.refused(503, reply.MANY_WAIT)
    end
  end
  return 200, is_any_settled and '{"settled":true}' or '{"settled":false}'
end

-- Whether the task has heard of a promise of another partition since it was asked whether that is pending. What it has
-- heard is kept until it is suspended: the same may be asked again because the answer was lost, or twice at a time.
local function has_heard(record)
  local known = {}
  for id in string.gmatch(record[R.heard] or '', '[^%z]+') do
    known[id] = true
  end
  for i = 5, #ARGV do
    if known[ARGV[i]] then return true end
  end
  return false
end

-- One of the promises that it waits for, which proves that somebody will wake it. Mostly it is a child.
local function awaits_of(record, awaited)
  local size = #record.id
  return string.sub(awaited, 1, size) == record.id and '\0' .. string.sub(awaited, size + 1) or awaited
end

return function(data)
  local wrong_data = wrong_actions(data)
  if wrong_data then return reply.bad(wrong_data) end
  if part == 'there' then return add_awaiter(data) end
  local record, status, sentence = lease.held(data.id, data.version)
  if not record then return reply.refused(status, sentence) end
  if part == 'held' then return 200, '{}' end
  local was_many = record[R.heard] == WORD.many
  local is_any_settled, awaited = part == 'settled' or (not was_many and has_heard(record)), {}
  for i, action in ipairs(data.actions) do
    local other = promises.touch(action.data.awaited)
    if not other then return reply.refused(422, 'Awaited promise not found') end
    if not store.is_external(other) then return reply.refused(422, 'Awaited promise is internal') end
    is_any_settled = is_any_settled or not store.is_pending(other)
    awaited[i] = other
  end
  for _, other in ipairs(awaited) do
    retention.add_reader(other, 'c' .. record.id)
  end
  if is_any_settled then
    store.put(record, R.resumes, false)
    return 300, '{"preload":' .. branches.preload(record) .. '}'
  end
  for _, other in ipairs(awaited) do
    if not waiters.add(other, 'c' .. record.id) then return reply.refused(503, reply.MANY_WAIT) end
  end
  store.put(record, R.task, 's', R.pid, false, R.ttl, false, R.resumes, false, R.heard, false)
  store.put(record, R.awaits, awaits_of(record, awaited[1] and awaited[1].id or ARGV[5]))
  timer.disarm('t' .. record.id)
  if was_many then promises.resume(record.id) end -- it may have heard of one of these
  return 200, '{}'
end
