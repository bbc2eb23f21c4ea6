local timer_kinds = {
  cron = true,
  timeout = true,
  start = true,
  retry = true,
  ask = true,
  tell = true,
  gate = true,
  gates = true,
  replaced = true,
  mail = true,
}

-- Whether something pending is due by this timer.
local function is_awaited(member)
  local id, what = owner_of(member)
  if not id then return false end
  if not timer_kinds[what] and what ~= '' and id ~= '' and not string.find(what, '^%d[%d.]*$') then
    found('newer', member, 'is a timer of kind ' .. what .. ', which only a newer version knows')
    return true
  end
  if what == 'gate' or what == 'gates' then
    local name = string.match(id, '^([^/]+)/')
    return name and redis.call('EXISTS', near(NEAR.limits .. name)) == 1
  end
  if what == 'cron' then return redis.call('EXISTS', schedule_prefix .. id) == 1 end
  if what == 'ask' then
    local owner_id, number = owner_of(id)
    local owner = owner_id and load(owner_id, { number })
    local raw = owner and owner.state == STATE.pending and raw_of(owner, number)
    local asked = raw and read_entry(raw)
    return asked and is_foreign(raw, asked) or is_closing(id)
  end
  if what == 'mail' then return #messages.untold(id) > 0 end
  local record = load(id, { what })
  if what == 'tell' then return record and record.state ~= STATE.pending and is_untold(record) or is_closing(id) end
  if not record or record.state ~= STATE.pending then return is_closing(id) end
  if not pcall(check_known, record) then return true end
  if what == 'timeout' then return record.deadline and true or false end
  if what == 'replaced' then return record.place == PLACE.parked end
  if what == 'start' or what == 'retry' then return record.place == PLACE.delayed end
  local entry = read_entry(raw_of(record, what))
  return entry and entry.state == STATE.pending and entry.due ~= '' or is_closing(id) -- it may be of an ended run
end

function checks.timer(member)
  if redis.call('ZSCORE', timers, member) and not is_awaited(member) then
    found('timer', member, 'is a timer that nobody waits for', function()
      unset_timer(member)
    end)
  end
  return ''
end
