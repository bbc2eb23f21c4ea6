-- A promise with its journal, one page an item: all of them together carry at most `LIMIT.answer_bytes_max`, or the
-- least that HSCAN gives, and each at most about `LIMIT.answer_entries_max` entries. `cursor` is "0" for the first page.
-- With `news` it is only the head and what has settled since the last commit.
-- Answers per item: names and values in turn; then the cursor of the next page, "" at the end. The first page has all
-- of the promise but its waiters. A page for which there was no room has nothing, and the cursor that was asked for.
-- @include keys
-- @include each_item
local STEP = 16 -- entries looked at a time; what is small and has no large value comes at once, whatever the step

local room, has_any = LIMIT.answer_bytes_max, false

-- From `cursor` on: the next cursor, the names and values, and how many bytes these are.
local function scan(key, cursor, step)
  local found = redis.call('HSCAN', key, cursor, 'COUNT', step)
  local fields, bytes = {}, 0
  for i = 1, #found[2], 2 do
    local name, value = found[2][i], found[2][i + 1]
    if name ~= F.waiters then
      fields[#fields + 1], fields[#fields + 2] = name, value
      bytes = bytes + #name + #value
    end
  end
  return found[1], fields, bytes
end

-- All that is not an entry, where the journal has several pages.
local function add_head(answer, key)
  local names = {
    F.state,
    F.kind,
    F.func,
    F.queue,
    F.args,
    F.birth,
    F.created,
    F.place,
    F.epoch,
    F.entry,
    F.due,
    F.deadline,
    F.reason,
    F.deaths,
    F.order,
    F.unseen,
    F.base,
    F.begun,
    F.value,
    F.settled,
  }
  for i = 1, LIMIT.args_parts_max - 1 do
    names[#names + 1] = F.args .. i
  end
  local values = redis.call('HMGET', key, unpack(names))
  for i, name in ipairs(names) do
    if values[i] then
      answer[#answer + 1], answer[#answer + 2] = name, values[i]
      room = room - #values[i]
    end
  end
end

-- Only what has settled since the last commit, beside the head; nothing and "0" if that is more than one answer.
local function load_news(key)
  local answer = {}
  add_head(answer, key)
  local unseen = redis.call('HGET', key, F.unseen) or ''
  for number in string.gmatch(unseen, '[^ ]+') do
    local raw = redis.call('HGET', key, number)
    if raw then
      room = room - #raw
      answer[#answer + 1], answer[#answer + 2] = number, raw
    end
    if room <= 0 or #answer > 2 * LIMIT.answer_entries_max then return { '0' } end
  end
  answer[#answer + 1] = ''
  return answer
end

-- A small promise as it is, waiters and all; nil for another, or if there is no room.
local function load_small(key)
  local size = redis.pcall('HLEN', key)
  if type(size) ~= 'number' or size > 2 * STEP then return nil end
  local answer, bytes = redis.call('HGETALL', key), 0
  for i = 2, #answer, 2 do
    bytes = bytes + #answer[i]
  end
  if bytes > room then return nil end
  room, has_any = room - bytes, true
  answer[#answer + 1] = ''
  return answer
end

local function load_page(at)
  local id, cursor, news = unpack(ARGV, at + 1, at + 3)
  local key, first, answer, is_done = promise_prefix .. id, cursor, {}, false
  if news ~= '' then return load_news(key) end
  local small = cursor == '0' and load_small(key)
  if small then return small end
  repeat
    local after, fields, bytes = scan(key, cursor, STEP)
    if bytes > room then
      if has_any then break end
      after, fields, bytes = scan(key, cursor, 1)
    end
    for i = 1, #fields do
      answer[#answer + 1] = fields[i]
    end
    room, has_any = room - bytes, has_any or bytes > 0
    cursor, is_done = after, after == '0'
  until is_done or room <= 0 or #answer > 2 * LIMIT.answer_entries_max
  if first == '0' and cursor ~= '0' then add_head(answer, key) end
  answer[#answer + 1] = is_done and '' or cursor
  return answer
end

return each_item(1, load_page)
