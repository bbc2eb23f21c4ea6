-- The workers to which a deferred execution may go: a table of functions.
local function other_workers()
  local others = {}

  -- The function sets of workers that lack its function, with this one added.
  function others.note_lacking(record, functions)
    local lacking = redis.call('HGET', record.key, F.lacking) or ''
    if string.find(' ' .. lacking, ' ' .. functions .. ' ', 1, true) then return lacking end
    lacking = lacking .. functions .. ' '
    local _, count = string.gsub(lacking, ' ', '')
    if count > LIMIT.lacking_max then lacking = string.match(lacking, ' (.*)$') end
    put(record, F.lacking, lacking)
    return lacking
  end

  -- A living worker of the group whose functions are none of these sets, if all of them report theirs; nil if there is
  -- none.
  function others.find(record, lacking)
    local found = {}
    local members = redis.call('ZRANGE', workers, 0, LIMIT.offers_max - 1, 'REV', 'WITHSCORES')
    for i = 1, #members, 2 do
      local worker = redis.pcall('HMGET', worker_prefix .. members[i], W.group, W.functions, W.beat_ms)
      local functions, beat_ms = worker[2] or '', tonumber(worker[3] or '')
      local is_fit = not worker.err
        and members[i] ~= consumer
        and worker[1] == group_of(record.queue)
        and functions ~= ''
        and not string.find(' ' .. lacking, ' ' .. functions .. ' ', 1, true)
      if is_fit and beat_ms and math.abs(now - tonumber(members[i + 1])) < LIMIT.beats_missed * beat_ms then
        found[#found + 1] = members[i]
      end
    end
    return found[1 + string.byte(record.id, -1) % #found] -- so that not all go to the same worker
  end

  -- Passes the lease at once to a worker that may know the function: the entry stays in the stream, only its holder
  -- changes. A hint tells that worker; if the hint is lost, its next heartbeats do.
  function others.hand_over(record, other)
    local stream = queue_prefix .. record.queue
    local is_done = pcall(redis.call, 'XCLAIM', stream, group_of(record.queue), other, 0, record.entry, 'JUSTID')
    if not is_done then return false end -- by an ACL of an older version, without the command: nothing is written yet
    known_of[record.queue].held[record.entry] = nil
    local fields = hints_for(other, #record.id)
    fields[#fields + 1] = 't'
    fields[#fields + 1] = record.queue .. '\t' .. record.entry .. '\t' .. int(record.epoch) .. '\t' .. record.id
    return true
  end

  return others
end
