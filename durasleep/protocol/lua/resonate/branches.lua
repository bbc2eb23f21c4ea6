-- @include resonate/render
-- The other promises of a branch, which save their reader as many requests. It need not be all of them.
local branches = {}

function branches.key(branch)
  return own_prefix .. 'branch:' .. branch
end

-- The branch in the tags of a loaded promise.
function branches.of(record)
  local branch = tags.get(store.long_of(record, R.tags), 'b', record.id, record[R.target])
  return branch ~= '' and branch or nil
end

function branches.preload(record)
  local branch = branches.of(store.load_whole(record.id))
  if not branch then return '[]' end
  local bytes, found = LIMIT.resonate_preload_bytes_max, {}
  local ids = redis.call('SRANDMEMBER', branches.key(branch), LIMIT.resonate_preload_max)
  ids[#ids + 1] = branch -- itself is no member of the set
  for _, id in ipairs(ids) do
    local other = id ~= record.id and store.load_whole(id)
    if other and branches.of(other) == branch then
      local text = render.promise(other)
      bytes = bytes - #text
      if bytes < 0 then break end
      found[#found + 1] = text
    end
  end
  return '[' .. table.concat(found, ',') .. ']'
end
