-- A step that has resolved has no further attempt.
local function check_checkpoint(record, number)
  local entry = read_entry(redis.call('HGET', record.key, number) or nil)
  if not entry or entry.state ~= STATE.resolved then return end
  found('checkpoint', record.id .. '~' .. number, 'has resolved, but its checkpoint is still kept', function()
    redis.call('HDEL', record.key, F.checkpoint .. number)
  end)
end

-- Checks the entries among some fields of an execution; answers how many are pending.
local function check_entries(record, fields)
  local pending = 0
  for i = 1, #fields, 2 do
    local noted = string.match(fields[i], '^' .. F.checkpoint .. '(%d[%d.]*)$')
    if noted then check_checkpoint(record, noted) end
    local is_entry = string.find(fields[i], '^%d')
    if is_entry and check_entry(record, fields[i], fields[i + 1]) then pending = pending + 1 end
  end
  return pending
end

-- A value that changes as soon as the execution changes.
local function mark_of(record)
  return record.epoch .. '/' .. int(record.order) .. '/' .. (record.place or '')
end

-- The next page of a journal. Answers where to go on, "" at the end: the cursor of HSCAN, the mark of the execution,
-- and how many pending entries there were so far. The pages exist for this sum: a sleeping execution must wait for
-- something. The sum holds only if nothing has changed between the pages. An execution that changes is alive, and is
-- left alone.
local function check_journal(record, at)
  local mark = mark_of(record)
  local cursor, mark_before, pending = '0', mark, '0'
  if at ~= '' then
    cursor, mark_before, pending = string.match(at, '^(%d+) (%S+) (%d+)$')
  end
  if mark_before ~= mark then return '' end
  local page = redis.call('HSCAN', record.key, cursor, 'COUNT', STEP)
  pending = tonumber(pending) + check_entries(record, page[2])
  if #findings > 0 then return '' end -- a repair has changed it; other findings are reported already
  if page[1] ~= '0' then return page[1] .. ' ' .. mark .. ' ' .. pending end
  if record.place == PLACE.suspended and pending == 0 then
    found('stuck', record.id, 'sleeps, but nothing it waits for is pending', again(record))
  end
  return ''
end
