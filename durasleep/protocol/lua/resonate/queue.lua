-- @include resonate/timer
-- Tasks that are ready, by address: one member a task, so that repeats coalesce. A group is one address; which of its
-- processes should get a task is only a preference.
--
-- One address is that of durasleep itself, whatever group follows: in its queue there are also promises that have
-- settled, and each member stays until what it has to tell was carried, see protocol/bridge.py. A member that is on its
-- way keeps its place, whatever becomes of it: its news is taken when it is due again, mostly five seconds later. And who has carried it
-- removes the member, so it must have looked at the promise again before: there may be news.
local queue = {
  OURS = 'durasleep://',
  changes = {}, -- key -> id -> whether it is to be there
}

function queue.is_ours(address)
  return string.sub(address, 1, #queue.OURS) == queue.OURS
end

-- The address without the preference, and the preferred process.
function queue.address_of(target)
  if queue.is_ours(target) then return queue.OURS, '' end
  local any, preferred = string.match(target, '^(poll://any@[^/]*)/?(.*)$')
  return any or target, preferred or ''
end

function queue.of(target)
  local key = own_prefix .. 'queue:' .. (queue.address_of(target))
  queue.changes[key] = queue.changes[key] or {}
  return queue.changes[key]
end

-- A promise has something to tell durasleep.
function queue.send_ours(record)
  queue.of(queue.OURS)[record.id] = true
  timer.must_wake = true
end

-- A timer is never executed: its deadline is all there is to it.
function queue.send(record)
  if record[R.kind] == 'm' then return end
  queue.of(record[R.target])[record.id] = true
  timer.must_wake = true
end

function queue.remove(record)
  queue.of(record[R.target])[record.id] = false
end

function queue.write()
  for key, ids in pairs(queue.changes) do
    local gone, made = {}, {}
    for id, is_there in pairs(ids) do
      if is_there then
        made[#made + 1], made[#made + 2] = now_text, id
      else
        gone[#gone + 1] = id
      end
    end
    in_chunks(gone, 'ZREM', key)
    in_chunks(made, 'ZADD', key, 'NX')
  end
  queue.changes = {}
end
