-- @include resonate/store
-- @include resonate/tags
-- @include resonate/listed
-- How long what has settled is kept: until some days after its root has settled, and until no promise below that root
-- is pending; the root counts them. And until no task of another root may need it: a task that has slept for weeks
-- begins at its first line, and makes again all that it has made. That holds for promises that are by themselves; those of
-- a branch go with it.
local retention = { changes = {} }

function retention.key(id)
  return own_prefix .. 'readers:' .. id
end

-- The days begin now: a deadline may have passed long ago, while nobody looked.
function retention.keep(record)
  local changes = retention.changes
  changes[#changes + 1], changes[#changes + 2] = int(now + LIMIT.retention_ms), record.id
end

function retention.root_of(record)
  local counted = record[R.counted]
  return counted == '1' and tags.root_of(record.id) or counted or record.id
end

function retention.count_child(record, origin)
  local root = origin ~= record.id and store.find(origin)
  if not root then return end
  store.put(root, R.children, int(tonumber(root[R.children] or '0') + 1))
  store.put(record, R.counted, origin == tags.root_of(record.id) and '1' or origin)
end

-- It is not pending any more.
function retention.discount_child(record)
  local root = record[R.counted] and store.find(retention.root_of(record))
  local children = root and tonumber(root[R.children] or '0') or 0
  if children > 0 then store.put(root, R.children, children > 1 and int(children - 1)) end
end

-- A task has made a promise, or waits for it: c and its id, or x and its id if it is in another partition. Many are the
-- set `readers:<id>`.
function retention.add_reader(record, reader)
  if not store.is_by_itself(record) then return end
  local task = string.sub(reader, 1, 1) == 'c' and store.load(string.sub(reader, 2))
  if task and retention.root_of(task) == retention.root_of(record) then return end
  listed.add(record, R.readers, retention.key(record.id), reader, LIMIT.readers_bytes_max)
end

function retention.write()
  in_chunks(retention.changes, 'ZADD', own_prefix .. 'settled')
  retention.changes = {}
end
