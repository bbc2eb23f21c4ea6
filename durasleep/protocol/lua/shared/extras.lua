-- @include record
-- @include near
-- @include check_type
-- @include entry
-- @include notify_inbox
-- @include now
-- What some executions have beside their hash: a mailbox, as long as they run, and what they publish, as long as they
-- are kept. Field `extras` says which of it there is, by letters: m, v; and r if it has ever waited for a message. A
-- commit does not load it: it is read when it is needed.
local extras = {}
do
  function extras.has(record, letter)
    if record.extras == nil then record.extras = redis.call('HGET', record.key, F.extras) end
    return record.extras and string.find(record.extras, letter, 1, true) ~= nil
  end

  -- The caller saves.
  function extras.note(record, letter)
    if extras.has(record, letter) then return end
    record.extras = (record.extras or '') .. letter
    put(record, F.extras, record.extras)
  end

  -- Whoever watches it is notified once that there is something new, and watches it again when reading it.
  function extras.notify_watchers(key, id)
    local watchers = redis.call('HGET', key, VIEW.watchers)
    if not watchers then return end
    redis.call('HDEL', key, VIEW.watchers)
    for inbox in string.gmatch(watchers, '[^\n]+') do
      local fields = hints_for(inbox, #id)
      fields[#fields + 1] = 'w'
      fields[#fields + 1] = id
    end
  end

  -- Makes room for one more step: the one that has published nothing for the longest time goes.
  function extras.drop_oldest_step(key, kept)
    if redis.call('HLEN', key) <= LIMIT.view_steps_max then return end
    local values, count, oldest, oldest_at = redis.call('HGETALL', key), 0, nil, nil
    for i = 1, #values, 2 do
      if string.sub(values[i], 1, 1) == VIEW.step then
        local at = tonumber(string.match(values[i + 1], '^%d+') or '') or 0
        count = count + 1
        if values[i] ~= kept and (not oldest or at < oldest_at) then
          oldest, oldest_at = values[i], at
        end
      end
    end
    if count > LIMIT.view_steps_max then redis.call('HDEL', key, oldest) end
  end

  -- What it publishes: field `workflow`, or `step` with the number of a first attempt. If the key is that of another
  -- program, nothing is published, and nothing fails. The caller saves.
  function extras.publish(record, field, payload)
    local key = near(NEAR.view .. record.id)
    if not is_a(key, 'hash') then return end
    local is_new = redis.call('HSET', key, field, now_text .. '\t' .. payload) == 1
    if is_new then
      extras.note(record, 'v')
      if field ~= VIEW.workflow then extras.drop_oldest_step(key, field) end
    end
    extras.notify_watchers(key, record.id)
  end

  -- Adds a watcher; false if there is no room. Inboxes whose readers have left make room. The caller saves.
  function extras.watch(record, inbox)
    local key = near(NEAR.view .. record.id)
    if not is_a(key, 'hash') then return false end
    local watchers = redis.call('HGET', key, VIEW.watchers) or ''
    if string.find('\n' .. watchers, '\n' .. inbox .. '\n', 1, true) then return true end
    local _, count = string.gsub(watchers, '\n', '')
    if count >= LIMIT.watchers_max then
      local left = {}
      for other in string.gmatch(watchers, '[^\n]+') do
        if redis.call('EXISTS', inbox_prefix .. other) == 1 then left[#left + 1] = other .. '\n' end
      end
      if #left >= LIMIT.watchers_max then return false end
      watchers = table.concat(left)
    end
    if redis.call('HSET', key, VIEW.watchers, watchers .. inbox .. '\n') == 1 then extras.note(record, 'v') end
    return true
  end

  -- It has this no longer. Written at once.
  function extras.remove(record, letter)
    if not extras.has(record, letter) then return end
    record.extras = string.gsub(record.extras, letter, '')
    if record.extras == '' then
      redis.call('HDEL', record.key, F.extras)
      record.extras = false
    else
      redis.call('HSET', record.key, F.extras, record.extras)
    end
  end

  function extras.unwatch(id, inbox)
    local key = near(NEAR.view .. id)
    local watchers = is_a(key, 'hash') and redis.call('HGET', key, VIEW.watchers)
    if not watchers then return end
    local first, last = string.find('\n' .. watchers, '\n' .. inbox .. '\n', 1, true)
    if not first then return end
    watchers = string.sub(watchers, 1, first - 1) .. string.sub(watchers, last)
    if watchers ~= '' then
      redis.call('HSET', key, VIEW.watchers, watchers)
      return
    end
    redis.call('HDEL', key, VIEW.watchers)
    if redis.call('EXISTS', key) == 1 then return end
    extras.remove({ key = promise_prefix .. id }, 'v')
  end

  -- How many messages its code has never got. `record.unread` says it to whoever ends it.
  local function count_unread(record, counts)
    record.unread = tonumber(string.match(counts or '', '^%d+') or '0')
    for number in string.gmatch(record.unseen, '[^ ]+') do
      local entry = read_entry(raw_of(record, number))
      if entry and entry.kind == KIND.receive and entry.state == STATE.resolved then
        record.unread = record.unread + 1
      end
    end
  end

  -- Deletes what an execution that had this id has left in its mailbox, all but the lines of senders elsewhere.
  function extras.clear_mailbox(key)
    local gone = {}
    for _, name in ipairs(redis.call('HKEYS', key)) do
      if string.sub(name, 1, 1) ~= 'x' then gone[#gone + 1] = name end
    end
    in_chunks(gone, 'HDEL', key)
    redis.call('PERSIST', key)
  end

  -- The calls that its hash remembers are remembered in a mailbox for a while, whatever becomes of the hash.
  local function keep_calls(record, key)
    local memos = {}
    for call in string.gmatch(redis.call('HGET', record.key, F.calls) or '', '[^\n]+') do
      memos[#memos + 1], memos[#memos + 2] = 'i' .. call, 'd'
    end
    if #memos == 0 then return end
    local counts = redis.call('HGET', key, 'n')
    if not extras.has(record, 'm') then
      extras.clear_mailbox(key)
      counts = '0 0 0 0 ' .. (string.match(counts or '', ' (%d+)$') or '0')
    end
    redis.call('HSET', key, 'n', counts, unpack(memos))
  end

  -- A mailbox goes with what is unread, a minute later: a call whose answer was lost must find it. One with lines of
  -- senders elsewhere goes when these have heard, see mailbox.lua.
  function extras.end_mailbox(record)
    local key = near(NEAR.mail .. record.id)
    if not is_a(key, 'hash') then return count_unread(record) end
    keep_calls(record, key)
    local counts = redis.call('HGET', key, 'n')
    count_unread(record, extras.has(record, 'm') and counts) -- else it is what another execution has left
    if string.find(counts or '', ' 0$') then redis.call('PEXPIRE', key, LIMIT.ended_mailbox_ms) end
  end

  -- At its end its mailbox goes, and what it has published stays. What is to be written of it is written before.
  function extras.finish(record)
    save(record)
    if extras.has(record, 'm') or extras.has(record, 'r') then extras.end_mailbox(record) end
    local view = extras.has(record, 'v') and near(NEAR.view .. record.id)
    if view and is_a(view, 'hash') then extras.notify_watchers(view, record.id) end
    if view and redis.call('EXISTS', view) == 1 then
      record.extras = 'v'
      put(record, F.extras, record.extras)
      drop(record, F.receives)
      drop(record, F.calls)
    else
      record.extras = false
      redis.call('HDEL', record.key, F.receives, F.calls, F.extras)
    end
    record.receives, record.saved_receives = '', ''
  end

  function extras.keep(record, keep_ms)
    if extras.has(record, 'v') then redis.call('PEXPIRE', near(NEAR.view .. record.id), int(keep_ms)) end
  end

  -- It has ended, and another execution takes its id, or it begins again.
  function extras.clear(record)
    if extras.has(record, 'v') then redis.call('UNLINK', near(NEAR.view .. record.id)) end
  end
end
