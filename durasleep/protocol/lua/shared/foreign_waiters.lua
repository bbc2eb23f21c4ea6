-- @include wait_for

-- Waiters of other partitions that have not heard of an ending: at most `count`, none only if there are none.
local function foreign_waiters(record, count)
  local found, waiters, cursor = {}, record.waiters or '', '0'
  local function add_one(who)
    if #found < count then found[#found + 1] = who end
  end
  if waiters ~= WORD.many then
    for who in string.gmatch(waiters, '%f[^%z\n]x([^\n]+)\n') do
      add_one(who)
    end
    return found
  end
  local set = waiters_prefix .. record.id
  if not is_a(set, 'set') then return found end
  repeat
    local page = redis.call('SSCAN', set, cursor, 'MATCH', 'x*', 'COUNT', 1000)
    cursor = page[1]
    for _, line in ipairs(page[2]) do
      add_one(string.sub(line, 2))
    end
  until cursor == '0' or #found > 0
  return found
end
