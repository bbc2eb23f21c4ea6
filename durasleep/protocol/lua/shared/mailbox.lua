-- @include kin
-- @include extras
-- @include receives
-- @include settle_entry
-- The mailbox of an execution, a hash beside its own, as long as it runs. A message that nobody waits for is kept there
-- until the code asks for it; it leaves in the script that writes it into the journal. So each counts once. Fields:
--   n              five numbers: messages, their bytes, keys and calls ever noted, lines of senders elsewhere
--   c<channel>     the sequence of its first message, and that of its next one
--   m<sequence> <channel>  a message: the promise that waits for an answer, then a line end and the value
--   k<key>, i<call>  what was answered to a key, with its call, or to a call without a key; remembered are the last ones,
--   K<n>, I<n>       which these rings name
--   x<waiter>      a line: what was answered to an entry of another partition; with when it has heard that
-- A sender elsewhere asks again until it has heard, and a late copy of its question may come after that. So its line is
-- kept for a while, whatever becomes of the execution; the timer `<id>~mail` tells it again, and deletes it: see fire.lua.
-- A message that is delivered at once needs no mailbox: the last few calls of such messages stand in field `calls` of the
-- execution, which is written with the message. When the field is full, they go to the ring together.
-- The mailbox of an execution that has ended is kept for a minute, for calls whose answers were lost. What another
-- execution with this id finds of it, it deletes, all but the lines.
local mailbox = {}
do
  local NUMBERS = '^(%d+) (%d+) (%d+) (%d+) (%d+)$'
  local HOW_ENDED = {
    [STATE.resolved] = 'resolved',
    [STATE.rejected] = 'rejected',
    [STATE.canceled] = 'canceled',
    [STATE.timedout] = 'timed out',
  }
  local LETTERS = { delivered = 'd', stored = 's' }
  local WORDS = { d = 'delivered', s = 'stored' }
  local REFUSALS = { NOT_FOUND = 'N', ENDED = 'E', MAILBOX_FULL = 'M', NOT_ALLOWED = 'A' }
  local CODES = { N = 'NOT_FOUND', E = 'ENDED', M = 'MAILBOX_FULL', A = 'NOT_ALLOWED' }

  -- What a script needs of a mailbox to take from one channel or put into it: nothing is written yet. `memo` is a field
  -- that may remember this message.
  local function open_box(record, channel, memo)
    local key = near(NEAR.mail .. record.id)
    local v = redis.pcall('HMGET', key, 'n', 'c' .. channel, memo or 'n')
    if v.err then
      check_type(key, 'hash')
      error(text_of(v), 0)
    end
    local count, bytes, keys, calls, lines = string.match(v[1] or '0 0 0 0 0', NUMBERS)
    local is_ours = extras.has(record, 'm')
    if count and not is_ours then -- of another execution
      count, bytes, keys, calls, v[2] = '0', '0', '0', '0', false
    end
    local head, tail = string.match(v[2] or '0 0', '^(%-?%d+) (%-?%d+)$')
    if not (count and head) then error('CORRUPT ' .. key .. ' is not a mailbox of ours', 0) end
    return {
      record = record,
      key = key,
      channel = channel,
      is_left = v[1] and not is_ours,
      count = tonumber(count),
      bytes = tonumber(bytes),
      K = tonumber(keys),
      I = tonumber(calls),
      lines = tonumber(lines),
      head = tonumber(head),
      tail = tonumber(tail),
      known = memo and (is_ours or string.sub(memo, 1, 1) == 'x') and v[3],
      sets = {},
    }
  end

  local function add_field(box, name, value)
    box.sets[#box.sets + 1], box.sets[#box.sets + 2] = name, value
  end

  local function name_of(box, sequence)
    return 'm' .. int(sequence) .. ' ' .. box.channel
  end

  local function write_box(box)
    if box.is_left then extras.clear_mailbox(box.key) end
    box.is_left = false
    extras.note(box.record, 'm')
    local numbers = { int(box.count), int(box.bytes), int(box.K), int(box.I), int(box.lines) }
    add_field(box, 'n', table.concat(numbers, ' '))
    if box.is_moved then
      if box.head == box.tail then
        redis.call('HDEL', box.key, 'c' .. box.channel)
      else
        add_field(box, 'c' .. box.channel, int(box.head) .. ' ' .. int(box.tail))
      end
    end
    redis.call('HSET', box.key, unpack(box.sets))
  end

  local function put_message(box, sequence, reply, value)
    add_field(box, name_of(box, sequence), reply .. '\n' .. value)
    box.count, box.bytes, box.is_moved = box.count + 1, box.bytes + #value, true
  end

  -- The field `calls`, '' if there is none.
  local function calls_of(record)
    local calls = record.known[F.calls]
    if calls == nil then calls = redis.call('HGET', record.key, F.calls) end
    return calls or ''
  end

  local function is_delivered(record, memo)
    local calls = calls_of(record)
    if calls == '' or string.sub(memo, 1, 1) ~= 'i' then return false end
    return string.find('\n' .. calls, '\n' .. string.sub(memo, 2) .. '\n', 1, true) ~= nil
  end

  -- Remembers what was answered to this message: in a ring, whose oldest one goes; or until its sender has heard.
  local function note_in_ring(box, memo, answered)
    local kind = string.sub(memo, 1, 1)
    local ring = string.upper(kind)
    add_field(box, memo, answered)
    local slot = ring .. int(box[ring] % LIMIT.ring_max)
    if box[ring] >= LIMIT.ring_max then
      local oldest = redis.call('HGET', box.key, slot)
      if oldest then redis.call('HDEL', box.key, kind .. oldest) end
    end
    add_field(box, slot, string.sub(memo, 2))
    box[ring] = box[ring] + 1
  end

  local function note_delivered(box, call)
    local record = box.record
    local calls = calls_of(record) .. call .. '\n'
    if #calls > LIMIT.calls_bytes_max then
      for one in string.gmatch(calls, '[^\n]+') do
        note_in_ring(box, 'i' .. one, LETTERS.delivered)
      end
      calls = ''
    end
    put_entry(record, F.calls, calls)
  end

  local function note_answer(box, memo, word, call)
    local kind = string.sub(memo, 1, 1)
    if kind == 'x' then
      add_field(box, memo, LETTERS[word] .. call)
      box.lines = box.lines + 1
      if box.lines == 1 then set_timer(box.record.id .. '~mail', now + LIMIT.mail_told_ms) end
    elseif kind == 'i' and box.number then
      note_delivered(box, string.sub(memo, 2))
    else
      note_in_ring(box, memo, LETTERS[word] .. call)
    end
  end

  -- Refuses an execution that takes no messages.
  function mailbox.check(record, id)
    if not record then error('NOT_FOUND there is no execution ' .. id, 0) end
    if (record.kind or KIND.execution) ~= KIND.execution then
      error('NOT_ALLOWED ' .. id .. ' is a promise, which takes no messages: settle it', 0)
    end
    if (record.state or STATE.pending) ~= STATE.pending then
      error('ENDED ' .. id .. ' has ended: ' .. (HOW_ENDED[record.state] or record.state), 0)
    end
    check_known(record)
    if is_orphan(record) then error('ENDED the execution that has started ' .. id .. ' has ended', 0) end
  end

  -- What was answered before, by the field that has remembered it: raised, if it was a refusal.
  local function word_of(id, memo, known, call)
    local letter, by = string.match(known, '^(%a)(.*)$')
    local code = CODES[letter]
    if code then error(code .. ' ' .. id .. ' has taken no message: ' .. string.lower(code), 0) end
    return (by == call or string.sub(memo, 1, 1) == 'x') and WORDS[letter] or 'duplicate'
  end

  -- Whether a message that is delivered neither changes a mailbox nor can be in its memory.
  local function may_pass(record, memo)
    if not memo then return true end
    if string.sub(memo, 1, 1) ~= 'i' or extras.has(record, 'm') then return false end
    return #calls_of(record) + #memo <= LIMIT.calls_bytes_max
  end

  -- Prepares to send a message: finds everything that could make it fail, and writes nothing. `memo` remembers it: "k" and
  -- a key, "i" and a call, "x" and a waiter; nil if the script itself is not repeated. Answers what is to be sent, or the
  -- word that was answered before.
  function mailbox.prepare(record, channel, value, memo, call)
    if memo and is_delivered(record, memo) then return nil, 'delivered' end
    local number, entry = receives.first(record, channel)
    if number and may_pass(record, memo) then return { record = record, number = number, entry = entry, sets = {} } end
    local box = open_box(record, channel, memo)
    if box.known then return nil, word_of(record.id, memo, box.known, call) end
    if memo and string.sub(memo, 1, 1) == 'x' and box.lines >= LIMIT.mail_lines_max then
      error('FULL ' .. record.id .. ' has answered ' .. LIMIT.mail_lines_max .. ' other partitions just now', 0)
    end
    box.number, box.entry = number, entry
    if not number then
      local bytes = box.bytes + #value
      local has_room = box.count < LIMIT.mailbox_max and (box.count == 0 or bytes <= LIMIT.mailbox_bytes_max)
      if not has_room then
        local has = record.id .. ' has ' .. box.count .. ' unread messages with ' .. box.bytes .. ' bytes'
        local most = ', and takes at most ' .. LIMIT.mailbox_max .. ' with ' .. LIMIT.mailbox_bytes_max
        error('MAILBOX_FULL ' .. has .. most, 0)
      end
    end
    return box
  end

  -- What was answered before by an execution that has ended since, or is gone.
  function mailbox.answered_before(record, id, memo, call)
    if record and is_delivered(record, memo) then return 'delivered' end
    local key = near(NEAR.mail .. id)
    local known = is_a(key, 'hash') and redis.call('HGET', key, memo)
    return known and word_of(id, memo, known, call)
  end

  -- A sender elsewhere is refused, and a late copy of its question is, too, whatever has become of the execution.
  function mailbox.note_refusal(id, memo, problem)
    local key, letter = near(NEAR.mail .. id), REFUSALS[string.match(text_of(problem), '^(%u[%u_]+)') or '']
    if not letter or not is_a(key, 'hash') or redis.call('HEXISTS', key, memo) == 1 then return end
    local numbers, lines = string.match(redis.call('HGET', key, 'n') or '0 0 0 0 0', '^(.* )(%d+)$')
    if not numbers or tonumber(lines) >= LIMIT.mail_lines_max then return end
    redis.call('HSET', key, memo, letter, 'n', numbers .. int(lines + 1))
    redis.call('PERSIST', key)
    if lines == '0' then set_timer(id .. '~mail', now + LIMIT.mail_told_ms) end
  end

  -- Sends what was prepared. `reply` is the promise that waits for an answer, or "". Answers "delivered" if the execution
  -- waited for it, else "stored".
  function mailbox.send(box, reply, value, memo, call)
    local record, word = box.record, box.number and 'delivered' or 'stored'
    spend(#value, LIMIT.ending_cost)
    if not box.number then
      put_message(box, box.tail, reply, value)
      box.tail = box.tail + 1
    end
    if memo then note_answer(box, memo, word, call) end
    if #box.sets > 0 then write_box(box) end
    if box.number then
      box.entry.child_id = reply
      settle_entry(record, box.number, box.entry, STATE.resolved, value)
    else
      save(record)
    end
    return word
  end

  -- Whether there is a message of a channel.
  function mailbox.has(record, channel)
    if not extras.has(record, 'm') then return false end
    local box = { key = near(NEAR.mail .. record.id), channel = channel }
    if not is_a(box.key, 'hash') then return false end
    local head, tail = string.match(redis.call('HGET', box.key, 'c' .. channel) or '0 0', '^(%-?%d+) (%-?%d+)$')
    for sequence = tonumber(head or '0'), tonumber(tail or '0') - 1 do
      if redis.call('HEXISTS', box.key, name_of(box, sequence)) == 1 then return true end
    end
    return false
  end

  -- The oldest message of a channel, which leaves the mailbox: its reply and value; nil if there is none.
  function mailbox.take(record, channel)
    if not extras.has(record, 'm') then return nil end
    local box = open_box(record, channel)
    while box.head < box.tail do
      local name = name_of(box, box.head)
      local message = redis.call('HGET', box.key, name)
      box.head, box.is_moved = box.head + 1, true
      if message then
        local reply, value = string.match(message, '^([^\n]*)\n(.*)$')
        redis.call('HDEL', box.key, name)
        box.count, box.bytes = math.max(box.count - 1, 0), math.max(box.bytes - #value, 0)
        write_box(box)
        spend(#value, 1)
        return reply, value
      end
    end
  end

  -- A message that was journaled, and that the code has not got, comes before all others. Of several, the newest is
  -- returned first; then receives that wait are served.
  function mailbox.return_message(record, channel, reply, value)
    local box = open_box(record, channel)
    box.head = box.head - 1
    put_message(box, box.head, reply, value)
    write_box(box)
  end

  -- Receives that wait get the messages that are there.
  function mailbox.serve(record, channel)
    local number, entry = receives.first(record, channel)
    while number do
      local reply, value = mailbox.take(record, channel)
      if not reply then return end
      entry.child_id = reply
      settle_entry(record, number, entry, STATE.resolved, value)
      number, entry = receives.first(record, channel)
    end
  end

  -- At the end of a run: nothing waits any more, and what its code has not got is for the next run.
  function mailbox.end_run(record)
    receives.clear(record)
    local numbers = {}
    for number in string.gmatch(record.unseen, '[^ ]+') do
      numbers[#numbers + 1] = number
    end
    for i = #numbers, 1, -1 do
      local raw = raw_of(record, numbers[i])
      local entry = read_entry(raw)
      if entry and entry.kind == KIND.receive and entry.state == STATE.resolved then
        mailbox.return_message(record, entry.name, entry.child_id, string.sub(raw, entry.body))
      end
    end
  end

  -- A sender elsewhere has heard. Answers whether there is a line of it.
  function mailbox.told(id, waiter)
    local key, line = near(NEAR.mail .. id), 'x' .. waiter
    local known = is_a(key, 'hash') and redis.call('HGET', key, line)
    if not known then return false end
    redis.call('HSET', key, line, string.sub(known, 1, 1) .. now_text)
    return true
  end

  -- Goes through the lines of a mailbox, as many as there is room for: `on_line` gets each that has not heard, and those that
  -- have heard long ago are deleted. Answers when to look again; nil if none is left. Then a mailbox goes that belongs to
  -- no execution any more.
  function mailbox.sweep(id, again_at, on_line)
    local key, cursor, untold, told, gone = near(NEAR.mail .. id), '0', 0, 0, {}
    if not is_a(key, 'hash') then return nil end
    repeat
      local page = redis.call('HSCAN', key, cursor, 'MATCH', 'x*', 'COUNT', 1000)
      cursor = page[1]
      for i = 1, #page[2], 2 do
        local letter, at = string.match(page[2][i + 1], '^(%a)(%d*)$')
        if at == '' then
          untold = untold + 1
          on_line(string.sub(page[2][i], 2), CODES[letter] and STATE.rejected or STATE.resolved, letter)
        elseif at and now - at < LIMIT.mail_line_kept_ms then
          told = told + 1
        else
          gone[#gone + 1] = page[2][i]
        end
      end
      spend(0, #page[2] / 8)
    until cursor == '0' or is_spent()
    in_chunks(gone, 'HDEL', key)
    local numbers, lines = string.match(redis.call('HGET', key, 'n') or '', '^(.* )(%d+)$')
    lines = cursor == '0' and untold + told or math.max((tonumber(lines) or 0) - #gone, 0)
    if numbers then redis.call('HSET', key, 'n', numbers .. int(lines)) end
    if untold > 0 or cursor ~= '0' then return again_at end
    if told > 0 then return now + LIMIT.mail_line_kept_ms end
    local record = load(id)
    local is_alive = record and record.state == STATE.pending and extras.has(record, 'm')
    if not is_alive then redis.call('PEXPIRE', key, LIMIT.ended_mailbox_ms) end
  end
end
