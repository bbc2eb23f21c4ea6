-- @include resonate/json
-- The tags of a promise, in the order in which they were sent. Of a tag that SDKs send, the name is one letter; a value
-- that follows from the id, or that is written elsewhere, is one letter, too. All other names and values are kept as they
-- were sent.
local tags = {}

-- The id before the last part; itself if it has one part.
function tags.parent_of(id)
  return string.match(id, '^(.+)[.:][^.:]*$') or id
end

function tags.root_of(id)
  return string.match(id, '^[^.:]*')
end

function tags.names()
  if not tags.name_of_code then
    tags.name_of_code = {
      o = '"resonate:origin":',
      b = '"resonate:branch":',
      p = '"resonate:parent":',
      s = '"resonate:scope":',
      t = '"resonate:target":',
      m = '"resonate:timer":',
      x = '"resonate:external":',
      d = '"resonate:delay":',
      c = '"resonate:schedule":',
    }
  end
  return tags.name_of_code
end

-- The value that a letter stands for, as it was sent: it had no escapes.
function tags.value_of(code, id, target)
  if code == '=' then return '"' .. id .. '"' end
  if code == '/' then return '"' .. tags.root_of(id) .. '"' end
  if code == '^' then return '"' .. tags.parent_of(id) .. '"' end
  if code == 't' then return '"' .. target .. '"' end
  if code == 'g' then return '"global"' end
  if code == 'l' then return '"local"' end
  return '"true"'
end

-- One word of what is kept, and the place behind it.
function tags.word_at(kept, at)
  local last = byte(kept, at) == 34 and json.string_end(kept, at) or at
  return sub(kept, at, last), last + 1
end

function tags.json(kept, id, target)
  if not kept then return '{}' end
  local words, names, at = {}, tags.names(), 1
  while at <= #kept do
    local name, value
    name, at = tags.word_at(kept, at)
    value, at = tags.word_at(kept, at)
    if #value == 1 then value = tags.value_of(value, id, target) end
    words[#words + 1] = (names[name] or name .. ':') .. value
  end
  return '{' .. table.concat(words, ',') .. '}'
end

-- The value of a tag that is kept as a letter, as text; nil if there is none.
function tags.get(kept, letter, id, target)
  local at, found = 1, nil
  while kept and at <= #kept do
    local name, value
    name, at = tags.word_at(kept, at)
    value, at = tags.word_at(kept, at)
    if name == letter then found = value end
  end
  if found and #found == 1 then found = tags.value_of(found, id, target) end
  return found and json.unquoted(found)
end

-- The promise at the root of another one: as a tag says, if that may be.
function tags.origin_of(origin, id)
  return origin and tags.root_of(origin) == tags.root_of(id) and origin or tags.root_of(id)
end
