-- @include resonate/payload
-- @include resonate/tags
-- What was sent, as it is kept.

-- What is kept of a value that was sent; or what is wrong with it.
function payload.read(members, name)
  local text, parts = json.member(request, members, name)
  if not text then return '' end
  if not parts then return nil, 'must be an object' end
  local headers, all = json.member(request, parts, '"headers"')
  if headers and not all then return nil, 'has headers that are no object' end
  for i = 2, headers and #all or 0, 4 do
    if byte(request, all[i]) ~= 34 then return nil, 'has a header that is no text' end
  end
  local data = json.member(request, parts, '"data"') or ''
  if data ~= '' and byte(data) ~= 34 then return nil, 'has data that is no text' end
  return (headers or '') .. data
end

-- The codes of names and of values, by what they stand for, and the other way round.
function tags.codes()
  if not tags.code_of_name then
    tags.code_of_name = {
      ['"resonate:origin"'] = 'o',
      ['"resonate:branch"'] = 'b',
      ['"resonate:parent"'] = 'p',
      ['"resonate:scope"'] = 's',
      ['"resonate:target"'] = 't',
      ['"resonate:timer"'] = 'm',
      ['"resonate:external"'] = 'x',
      ['"resonate:delay"'] = 'd',
      ['"resonate:schedule"'] = 'c',
    }
    tags.code_of_value = { ['"global"'] = 'g', ['"local"'] = 'l', ['"true"'] = '1' }
  end
  return tags.code_of_name, tags.code_of_value
end

function tags.code_of(value, id, target)
  local _, codes = tags.codes()
  local code = codes[value]
  if code then return code end
  if find(value, '\\', 1, true) then return nil end
  local plain = sub(value, 2, -2)
  return plain == id and '='
    or plain == target and 't'
    or plain == tags.root_of(id) and '/'
    or plain == tags.parent_of(id) and '^'
end

-- Tags that were sent, as they are kept; nothing if one of them is no text.
function tags.encode(members, id, target)
  local words, count, codes = {}, 0, tags.codes()
  for i = 1, #members, 4 do
    local name, from = members[i], members[i + 1]
    if byte(request, from) ~= 34 then return nil end
    local value = sub(request, from, members[i + 2])
    local plain = find(name, '\\', 1, true) and json.quoted(json.unquoted(name)) or name
    words[count + 1] = codes[plain] or name
    words[count + 2] = tags.code_of(value, id, target) or value
    count = count + 2
  end
  return table.concat(words)
end
