-- @include resonate/checks
-- @include resonate/sent
-- @include resonate/promises
-- @include resonate/branches
-- Making a promise.

-- Reads what tags say of what is to be made. Answers a sentence if something is wrong.
function promises.read_tags(what, members, name, sent)
  local text, inner = json.member(request, members, name)
  if text and not inner then return 'must be an object' end
  if text and #text > LIMIT.resonate_tags_bytes_max then
    return 'have more than ' .. LIMIT.resonate_tags_bytes_max .. ' bytes'
  end
  sent = text and sent or {}
  what.target, what.branch = sent['resonate:target'], sent['resonate:branch']
  if what.branch == '' then what.branch = nil end
  what.tags = tags.encode(inner or {}, what.id, what.target)
  if not what.tags then return 'must be texts' end
  local problem = what.target and check.address(what.target)
  if problem then return 'resonate:target ' .. problem end
  problem = what.branch and check.name(what.branch)
  if problem then return 'resonate:branch ' .. problem end
  local delay = sent['resonate:delay']
  if delay then
    what.starts = tonumber(string.match(delay, '^%-?%d+$') or '')
    if not what.starts then return 'resonate:delay must be a whole number' end
    if not what.target then return 'resonate:delay needs resonate:target' end
    if what.starts >= what.timeout then return 'resonate:delay must be before timeoutAt' end
  end
  what.is_timer = sent['resonate:timer'] == 'true'
  what.is_external = sent['resonate:external'] == 'true' or sent['resonate:scope'] == 'global'
  what.origin = tags.origin_of(sent['resonate:origin'], what.id)
end

-- What is to be made, checked: from the data of a create request, and its members as they were sent. Answers nothing and
-- a sentence if something is wrong.
function promises.read_create(data, members)
  local problem = check.wrong(data, 'id', check.name, 'timeoutAt', check.count)
  if problem then return nil, problem end
  local what = { id = data.id, timeout = check.clamp(data.timeoutAt) }
  what.param, problem = payload.read(members, '"param"')
  if not what.param then return nil, 'param ' .. problem end
  problem = promises.read_tags(what, members, '"tags"', data.tags)
  if problem then return nil, 'tags: ' .. problem end
  return what
end

-- One letter for what its target does not say: a timer, external, or internal without a branch to go with.
function promises.kind_of(what)
  if what.is_timer then return 'm' end
  if what.target then return false end
  if what.is_external then return 'x' end
  local may_go_with = what.branch and what.branch ~= what.id and tags.root_of(what.branch) == tags.root_of(what.id)
  local branch = may_go_with and store.load(what.branch)
  return not (branch and store.is_by_itself(branch)) and 'a'
end

-- The promise without its task. One whose deadline has passed has settled then, and was created at that time.
function promises.make(what)
  local is_dead = what.timeout <= now
  local record = { id = what.id, is_whole = true }
  local state = is_dead and (what.is_timer and STATE.resolved or STATE.timedout) or STATE.pending
  store.records[what.id] = record
  store.put(record, R.timeout, int(what.timeout), R.created, int(is_dead and what.timeout or now))
  store.put(record, R.target, what.target or false, R.kind, promises.kind_of(what))
  store.put_long(record, R.tags, what.tags)
  store.put_long(record, R.param, what.param)
  record[R.state] = state
  if what.branch and what.branch ~= what.id then redis.call('SADD', branches.key(what.branch), what.id) end
  if is_dead then
    store.put(record, R.state, state, R.settled, int(what.timeout))
    if what.target then store.put(record, R.task, 'f') end
    if store.is_by_itself(record) then retention.keep(record) end
  elseif store.is_by_itself(record) then
    timer.arm('p' .. what.id, what.timeout)
    retention.count_child(record, what.origin)
  end
  return record, is_dead
end

function promises.make_with_task(what)
  local record, is_dead = promises.make(what)
  if not what.target or is_dead then return record end
  store.put(record, R.task, 'p')
  if what.starts and what.starts > now then
    if not what.is_timer then timer.arm('t' .. what.id, what.starts) end
  else
    queue.send(record)
  end
  return record
end
