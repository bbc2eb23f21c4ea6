-- The entries that are pending to this very consumer. Items mostly come in the order of their entries, which mostly lie
-- together in the stream. So the entries behind one are asked for along with it: all if it is the first, later about as
-- many as the last question has saved us.
local known_of, items_left = {}, 0 -- queue -> entries that are held, and how many questions the last one has saved us

-- How many items there are from `first` on.
local function count_items(first)
  local count, at, last = 0, first, #ARGV
  while at <= last do
    count = count + 1
    at = at + ARGV[at] + 1
  end
  return count
end

local function note_pending(held, rows)
  local ids, ours = {}, 0
  for i = 1, #rows do
    ids[i] = rows[i][1]
    if rows[i][2] == consumer then
      held[ids[i]] = true
      ours = ours + 1
    end
  end
  return ids, ours
end

local function ask_pending(known, queue, entry)
  local stream, group = queue_prefix .. queue, group_of(queue) or ''
  local count = known.spared and math.min(items_left, 2 * known.spared + 1) or items_left
  local ids, ours = note_pending(known.held, redis.pcall('XPENDING', stream, group, entry, '+', count))
  note_run(queue, ids)
  if ours < #ids then -- other workers hold some in between
    note_pending(known.held, redis.pcall('XPENDING', stream, group, entry, '+', count, consumer))
  end
  known.spared = 0
end

local function is_held(queue, entry)
  local known = known_of[queue]
  if not known then
    known = { held = {} }
    known_of[queue] = known
  end
  if known.held[entry] then
    known.spared = known.spared + 1
  else
    ask_pending(known, queue, entry)
  end
  items_left = items_left - 1
  return known.held[entry]
end
