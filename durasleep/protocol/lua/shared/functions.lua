-- @include near
-- @include check_type
-- @include text_of
-- @include gates
-- @include index

-- What workers have declared of functions: once in a script for each function.
local declared = {}
local indexed -- the labels that have an index; false for none

local function read_declared(func)
  local found = redis.pcall('HMGET', near(NEAR.functions), func, NEAR.indexed)
  if found.err then error('CORRUPT ' .. near(NEAR.functions) .. ' is not ours: ' .. text_of(found), 0) end
  indexed = found[2]
  for label in string.gmatch(indexed or '', '(%S+) ') do
    check_type(near(NEAR.index .. label), 'zset') -- before anything is written
  end
  local text = found[1]
  if not text then return false end
  local limit, priority, retention, needs_key = string.match(text, '^([^\t]*)\t(%d?)\t(-?%d*)\t(1?)')
  if not limit then error('CORRUPT ' .. near(NEAR.functions) .. ' is not ours: ' .. func, 0) end
  return { limit = limit, priority = priority, retention = retention, needs_key = needs_key ~= '' }
end

local function declared_of(func)
  local found = declared[func]
  if found == nil then
    found = read_declared(func)
    declared[func] = found
  end
  return found
end

-- The queue of a group in which work of this priority waits. A worker's own queue has no levels.
local function queue_at(queue, priority)
  if priority == '' or string.find(queue, '/', 1, true) then return queue end
  local group = group_of(queue)
  return priority == DEFAULT.priority and group or group .. '!' .. priority
end

-- Completes what is to be made by what is declared of its function. What the call says comes first; a retention after
-- "~" is only that of its settings. Nothing is written yet.
local function complete(what)
  local found = declared_of(what.func)
  local given, default = string.match(what.retention or '', '^(-?%d*)~?(-?%d*)$')
  local priority = what.priority or ''
  if found then
    if priority == '' then priority = found.priority end
    if given == '' then given = found.retention end
  end
  what.retention = given ~= '' and given or default
  what.queue = queue_at(what.queue, priority)
  what.key = what.key or ''
  if what.weight == '' then what.weight = nil end
  if found and found.limit ~= '' then
    what.limit, what.needs_key = found.limit, found.needs_key
  end
end

-- Why an execution with a limit cannot be made: a word, and a sentence. It may be made now, and not later.
local function refusal_of(id, what, start)
  if what.needs_key and what.key == '' then
    return 'keyless',
      'function '
        .. what.func
        .. ' has limit '
        .. what.limit
        .. ', which counts by key: give a key, by options(key=...), or by=lambda ... beside limit='
  end
  if what.needs_key and has_partitions() and string.match(id, '{([^}]+)}') ~= what.key then
    return 'elsewhere',
      'limit '
        .. what.limit
        .. ' counts by key in each partition, so the id of its executions has the key in braces: {'
        .. what.key
        .. '}, not '
        .. id
  end
  local overflow = not start and gates().overflow_of(what.limit, what.key)
  if overflow == 'replace' then
    what.replaces = true
  elseif overflow then
    return overflow, 'limit ' .. what.limit .. ' has no room for another one to wait'
  end
end
