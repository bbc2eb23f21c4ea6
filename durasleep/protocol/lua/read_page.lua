-- A promise with its journal, one page an item. All pages together carry at most `LIMIT.answer_bytes_max`, or the least
-- that HSCAN gives, and each page has at most about `LIMIT.answer_entries_max` entries. `cursor` is "0" for the first
-- page.
-- `what` may be "record", for all but the journal, or "unseen", for the record and the entries settled since the last
-- commit.
-- Answers per item: names and values in turn; then the cursor of the next page, "" at the end. The first page has all
-- of the promise except its waiters. A page without room has nothing, and the same cursor as before.
-- @include keys
-- @include each_item
-- @include check_size
local SMALL_FIELDS_MAX = 32 -- of a hash that is read whole, in one command
local STEP = 4 -- entries read at a time, because each may have a megabyte; a small hash comes whole in any case

local room, has_any = LIMIT.answer_bytes_max, false

-- The bytes of a name and its value; a reader can take only so many.
local function size_of(key, name, value)
  if #value > LIMIT.value_bytes_max and name ~= F.waiters then check_size(name .. ' of ' .. key, value) end
  return #name + #value
end

-- From `cursor` on: the next cursor, the names and values, and how many bytes these are.
local function scan(key, cursor, step)
  local found = redis.call('HSCAN', key, cursor, 'COUNT', step)
  local fields, bytes = {}, 0
  for i = 1, #found[2], 2 do
    local name, value = found[2][i], found[2][i + 1]
    if name ~= F.waiters then
      fields[#fields + 1], fields[#fields + 2] = name, value
      bytes = bytes + size_of(key, name, value)
    end
  end
  return found[1], fields, bytes
end

-- All fields that are not entries, if the journal has several pages.
local function add_record(answer, key)
  local names = {
    F.state,
    F.kind,
    F.func,
    F.queue,
    F.args,
    F.incarnation,
    F.created,
    F.place,
    F.epoch,
    F.entry,
    F.due,
    F.deadline,
    F.reason,
    F.crash_count,
    F.order,
    F.unseen,
    F.base,
    F.begun,
    F.origins,
    F.value,
    F.settled,
    F.labels,
    F.trace,
    F.trace_now,
    F.limit,
    F.receives,
    F.extras,
  }
  for i = 1, LIMIT.args_parts_max - 1 do
    names[#names + 1] = F.args .. i
  end
  local values = redis.call('HMGET', key, unpack(names))
  for i, name in ipairs(names) do
    if values[i] then
      answer[#answer + 1], answer[#answer + 2] = name, values[i]
      room = room - size_of(key, name, values[i])
    end
  end
end

local function load_record(key)
  local answer = {}
  add_record(answer, key)
  answer[#answer + 1] = ''
  return answer
end

-- Only the entries settled since the last commit, beside the record; nothing and "0" if that is more than one answer.
local function load_unseen(key)
  local answer = {}
  add_record(answer, key)
  local unseen = redis.call('HGET', key, F.unseen) or ''
  for number in string.gmatch(unseen, '[^ ]+') do
    local raw = redis.call('HGET', key, number)
    if raw then
      room = room - size_of(key, number, raw)
      answer[#answer + 1], answer[#answer + 2] = number, raw
    end
    if room <= 0 or #answer > 2 * LIMIT.answer_entries_max then return { '0' } end
  end
  answer[#answer + 1] = ''
  return answer
end

-- A small promise as it is, with its waiters; nil for a large one, or if there is no room.
local function load_small(key)
  local size = redis.pcall('HLEN', key)
  if type(size) ~= 'number' or size > SMALL_FIELDS_MAX then return nil end
  local answer, bytes = redis.call('HGETALL', key), 0
  for i = 1, #answer, 2 do
    bytes = bytes + size_of(key, answer[i], answer[i + 1])
  end
  if bytes > room then
    if has_any then room = 0 end -- nothing more is read for this answer
    return nil
  end
  room, has_any = room - bytes, true
  answer[#answer + 1] = ''
  return answer
end

local function load_page(at)
  local id, cursor, what = unpack(ARGV, at + 1, at + 3)
  local key, first, answer, is_done = promise_prefix .. id, cursor, {}, false
  if what == 'unseen' then return load_unseen(key) end
  if what == 'record' then return load_record(key) end
  local small = cursor == '0' and room > 0 and load_small(key)
  if small then return small end
  if room <= 0 and has_any then return { cursor } end
  repeat
    local after, fields, bytes = scan(key, cursor, STEP)
    if bytes > room then
      if has_any then
        room = 0
        break
      end
      after, fields, bytes = scan(key, cursor, 1)
    end
    for i = 1, #fields do
      answer[#answer + 1] = fields[i]
    end
    room, has_any = room - bytes, has_any or bytes > 0
    cursor, is_done = after, after == '0'
  until is_done or room <= 0 or #answer > 2 * LIMIT.answer_entries_max
  if first == '0' and cursor ~= '0' then add_record(answer, key) end
  answer[#answer + 1] = is_done and '' or cursor
  return answer
end

return each_item(1, load_page)
