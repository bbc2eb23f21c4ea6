-- JSON as it was sent. `cjson` checks a request and reads its numbers and names; what is kept for others is cut from
-- its text, so that it goes out byte by byte as it came. All text here has been read by `cjson` before.
local find, byte, sub = string.find, string.byte, string.sub
local json = {
  members_left = LIMIT.resonate_members_max, -- that are still looked at
  TOO_MANY = 'The request has more than ' .. LIMIT.resonate_members_max .. ' members',
}

function json.quoted(text)
  return cjson.encode(text)
end

-- The place of the quotation mark that ends the string which begins at `at`.
function json.string_end(text, at)
  local stop = at
  local slash
  repeat
    stop = find(text, '"', stop + 1, true)
    slash = stop - 1
    while byte(text, slash) == 92 do
      slash = slash - 1
    end
  until (stop - slash) % 2 == 1
  return stop
end

-- The place of the last letter of an object or list, or of a number or word.
function json.value_end(text, at)
  local first = byte(text, at)
  if first ~= 91 and first ~= 123 then return find(text, '[,%]}%s]', at) - 1 end
  local depth = 0
  repeat
    at = find(text, '["%[%]{}]', at)
    local mark = byte(text, at)
    if mark == 34 then
      at = json.string_end(text, at)
    elseif mark == 123 or mark == 91 then
      depth = depth + 1
    else
      depth = depth - 1
    end
    at = at + 1
  until depth == 0
  return at - 1
end

-- The members of the object that begins at `at`, four values each: the quoted name, the first and the last place of the
-- value, and its own members if it is an object, else false. And the place of the last letter of the object. Raises
-- `TOO_MANY`.
function json.scan(text, at)
  local found, n = {}, 0
  at = find(text, '[^%s]', at + 1)
  while byte(text, at) ~= 125 do
    local name_end = json.string_end(text, at)
    local from = find(text, '[^%s:]', name_end + 1)
    local first, inner = byte(text, from), false
    local to
    if first == 34 then
      to = json.string_end(text, from)
    elseif first == 123 then
      inner, to = json.scan(text, from)
    else
      to = json.value_end(text, from)
    end
    found[n + 1], found[n + 2], found[n + 3], found[n + 4] = sub(text, at, name_end), from, to, inner
    n = n + 4
    json.members_left = json.members_left - 1
    if json.members_left < 0 then error(json.TOO_MANY, 0) end
    at = find(text, '[^%s,]', to + 1)
  end
  return found, at
end

-- What a quoted text stands for.
function json.unquoted(text)
  if not find(text, '\\', 1, true) then return sub(text, 2, -2) end
  return cjson.decode('[' .. text .. ']')[1]
end

-- The text of a member, and its own members, see `scan`; nil if there is none, or if it is null.
function json.member(text, found, name)
  for i = #found - 3, 1, -4 do
    local is_it = found[i] == name
    if not is_it and find(found[i], '\\', 1, true) then is_it = json.quoted(json.unquoted(found[i])) == name end
    if is_it then
      local value = sub(text, found[i + 1], found[i + 2])
      if value == 'null' then return nil end
      return value, found[i + 3]
    end
  end
end

-- The members of the data of the request.
function json.members_of_data(text)
  local found = json.scan(text, find(text, '{', 1, true))
  local _, members = json.member(text, found, '"data"')
  return members
end

-- The request inside of a request: its kind, its data, and the members of its data. Answers nothing and a sentence if
-- there is none of the kinds that may be there.
function json.action_of(data, text, members, ...)
  local action = data.action
  if type(action) ~= 'table' then return nil, 'action must be an object' end
  for _, kind in ipairs({ ... }) do
    if action.kind == kind then
      if type(action.data) ~= 'table' then return nil, 'action must have data' end
      local _, inner = json.member(text, members, '"action"')
      local _, inner_data = json.member(text, inner, '"data"')
      if not inner_data then return nil, 'action must have an object as data' end
      return kind, action.data, inner_data
    end
  end
  return nil, 'action must be ' .. table.concat({ ... }, ' or ')
end
