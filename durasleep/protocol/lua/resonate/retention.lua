-- @include resonate/store
-- @include resonate/tags
-- How long what has settled is kept: until some days after its root has settled. A root that still has children that
-- are pending is kept, too; it counts them.
local retention = { changes = {} }

function retention.keep(record, at)
  local changes = retention.changes
  changes[#changes + 1], changes[#changes + 2] = int(at + LIMIT.retention_ms), record.id
  if not record[R.counted] then return end
  local root = store.load(record[R.counted] == '1' and tags.root_of(record.id) or record[R.counted])
  store.put(record, R.counted, false)
  local children = root and tonumber(root[R.children] or '0') or 0
  if children > 0 then store.put(root, R.children, children > 1 and int(children - 1)) end
end

function retention.count_child(record, origin)
  local root = origin ~= record.id and store.load(origin)
  if not root then return end
  store.put(root, R.children, int(tonumber(root[R.children] or '0') + 1))
  store.put(record, R.counted, origin == tags.root_of(record.id) and '1' or origin)
end

function retention.write()
  in_chunks(retention.changes, 'ZADD', own_prefix .. 'settled')
end
