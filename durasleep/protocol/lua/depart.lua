-- A namespace is moved: what leaves it is taken out of everybody's reach under its name, read as it is, page by page, and
-- deleted when the other namespace has it. Nobody else changes it meanwhile, so that nothing of it can be lost.
-- `name` is that of a promise or schedule, with its kind: `promise:order-42`. `mark` is the cursor of a page; to "drop"
-- one, it says which one: when it began, and by which call.
-- Answers per item: of "take" a word ("taken", or "gone" if there is none), its remaining ms as PTTL says them, when it
-- was halted, whether its family is still to be closed, the cursor of the next page ("0" at the end), then names and
-- values in turn; of "waiters" the next cursor and members; of "view" "viewed", then names and values in turn; of "mail"
-- the next cursor, then names and values in turn; of "drop" "dropped", or "gone" if it is another one.
-- @include keys
-- @include each_item
-- @include check_size
-- @include check_type
local FIELDS_MAX = 500 -- of a page
local STEP = 4 -- fields read at a time: each may have a megabyte
local tag = string.match(timers, '^{[^}]*}:')
local leaving_prefix = tag .. 'leaving:'
local actions = {}

local function id_of(name)
  return string.match(name, '^promise:(.*)$') or ''
end

-- A page of a hash, as many fields as there is room for: the next cursor, and names and values in turn.
local function page_of(key, cursor)
  local fields, bytes = {}, 0
  repeat
    local page = redis.call('HSCAN', key, cursor, 'COUNT', STEP)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      local field, value = page[2][i], page[2][i + 1]
      check_size(field .. ' of ' .. key, value)
      bytes = bytes + #field + #value
      fields[#fields + 1], fields[#fields + 2] = field, value
    end
  until cursor == '0' or bytes >= LIMIT.answer_bytes_max or #fields >= 2 * FIELDS_MAX
  spend(bytes, 0)
  return cursor, fields
end

function actions.take(name, cursor)
  local key = leaving_prefix .. name
  if redis.call('EXISTS', key) == 0 then
    if cursor ~= '0' or redis.call('EXISTS', tag .. name) == 0 then return { 'gone' } end -- it may have expired
    check_type(tag .. name, 'hash')
    redis.call('RENAME', tag .. name, key)
  end
  local id = id_of(name)
  local next_cursor, fields = page_of(key, cursor)
  local halted_at = is_a(halted, 'zset') and redis.call('ZSCORE', halted, id) or ''
  local is_closing = is_a(closing, 'zset') and redis.call('ZSCORE', closing, id) and '1' or ''
  local answer = { 'taken', redis.call('PTTL', key), halted_at, is_closing, next_cursor }
  for i = 1, #fields do
    answer[5 + i] = fields[i]
  end
  return answer
end

-- Of a promise that has many.
function actions.waiters(name, cursor)
  local page = redis.call('SSCAN', waiters_prefix .. id_of(name), cursor, 'COUNT', FIELDS_MAX)
  return { page[1], page[2] }
end

-- What an execution publishes, without those who watch it.
function actions.view(name)
  local key, kept = tag .. NEAR.view .. id_of(name), { 'viewed' }
  check_type(key, 'hash')
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    check_size(fields[i] .. ' of ' .. key, fields[i + 1])
    spend(#fields[i + 1], 0)
    if fields[i] ~= VIEW.watchers then
      kept[#kept + 1], kept[#kept + 2] = fields[i], fields[i + 1]
    end
  end
  return kept
end

-- The messages that its code has not asked for, and what was answered to the last senders.
function actions.mail(name, cursor)
  local key = tag .. NEAR.mail .. id_of(name)
  check_type(key, 'hash')
  local next_cursor, fields = page_of(key, cursor)
  return { next_cursor, unpack(fields) }
end

function actions.drop(name, origin)
  local found = redis.call('HMGET', leaving_prefix .. name, F.incarnation, F.idempotency_key)
  if (found[1] or '') .. ' ' .. (found[2] or '') ~= origin then return 'gone' end
  redis.call('UNLINK', leaving_prefix .. name)
  if redis.call('EXISTS', tag .. name) == 0 then -- else somebody has made another one meanwhile
    local id = id_of(name)
    redis.call('UNLINK', waiters_prefix .. id, tag .. NEAR.view .. id, tag .. NEAR.mail .. id)
    redis.call('ZREM', halted, id_of(name))
    local schedule = string.match(name, '^schedule:(.*)$')
    if schedule and is_a(schedules, 'zset') then redis.call('ZREM', schedules, schedule) end
  end
  return 'dropped'
end

local function depart(at)
  local action, name, mark = unpack(ARGV, at + 1, at + 3)
  if not actions[action] then error('INVALID action ' .. action, 0) end
  return actions[action](name, mark)
end

return each_item(1, depart)
