-- Sends messages to executions: to the code that waits for one, else into the mailbox.
-- `memo` remembers the message: a letter and a key, call or waiter, see mailbox.lua.
-- An item with more values begins the execution first, if there is none: `words`, arguments and key as in create.lua.
-- `reply` is the id of a promise that is made to wait for an answer, until `due`, in the inbox of whoever asks.
-- Answers per item: "delivered" or "stored"; "duplicate" if another call has sent a message with this key; and if there
-- is a reply, all that create.lua answers of it.
-- @include keys
-- @include find
-- @include each_item
-- @include at_end
-- @include mailbox
-- @include full
local REPLY_KEPT_MS = '90000' -- whoever asks reads it at once, or is gone

local SENT_TO = { F.receives, F.calls } -- what is loaded of it beside the record

local begun

-- To begin an execution or to ask for an answer takes many functions, and few messages do: they are made when the first
-- one does.
local function beginning()
  if begun then return begun end
  -- @include begin
  begun = {}

  -- Begins the execution, if there is none. Where its limit drops it, there is none to send to.
  function begun.begin_first(id, at)
    if is_full and redis.call('EXISTS', promise_prefix .. id) == 0 then
      error('FULL Redis has reached its maxmemory: ' .. id .. ' was not started', 0)
    end
    local words, args, idempotency_key = unpack(ARGV, at + 9, at + 11)
    local answered = begin(id, words, args, idempotency_key)
    if answered[1] == 'dropped' then
      error('LIMIT_FULL the limit of its function has no room for another one to wait: ' .. id .. ' was not started', 0)
    end
  end

  function begun.check_due(due)
    due_at(due)
    check_type(timers, 'zset')
  end

  -- A question that is asked again, because the answer of its call was lost: its promise is there, so its message was
  -- sent, whatever has become of that.
  function begun.ask_again(reply, record, inbox, word)
    if reply.state == STATE.pending then
      wait_for(reply, 'i' .. inbox)
      if record and record.state == STATE.pending then wait_for(record, 'i' .. inbox) end
    end
    open_inbox(inbox)
    return { word or 'stored', answer('attached', reply) }
  end

  -- The promise of a question. If the execution that is asked ends without an answer, whoever asks hears that, too.
  function begun.make_reply(id, due, inbox, record)
    wait_for(record, 'i' .. inbox)
    local what = { kind = KIND.promise, args = '', retention = REPLY_KEPT_MS, waiters = 'i' .. inbox .. '\n' }
    make(id, now_text, what, nil, due_at(due))
    open_inbox(inbox)
    return now_text
  end

  return begun
end

-- What is to be sent, checked; or the word that was answered before.
local function prepare(record, id, channel, value, memo, call)
  local is_pending = record and record.state == STATE.pending
  local before = not is_pending and mailbox.answered_before(record, id, memo, call)
  if before then return nil, before end
  mailbox.check(record, id)
  local box, word = mailbox.prepare(record, channel, value, memo, call)
  if box and is_full and not (box.number and #value <= LIMIT.full_value_bytes_max) then
    error('FULL Redis has reached its maxmemory: it takes no message for ' .. id, 0)
  end
  return box, word
end

local function send(at, size)
  local id, channel, memo, caller, reply, due, inbox, value = unpack(ARGV, at + 1, at + 8)
  local asked = reply ~= '' and load(reply)
  if asked then
    local record = load(id, SENT_TO)
    return beginning().ask_again(asked, record, inbox, mailbox.answered_before(record, id, memo, caller))
  end
  if reply ~= '' then
    beginning().check_due(due)
    if is_full then error('FULL Redis has reached its maxmemory: it takes no message for ' .. id, 0) end
  end
  local record = load(id, SENT_TO)
  if size > 8 and not record then
    local before = mailbox.answered_before(nil, id, memo, caller) -- it has begun, ended and expired since
    if before then return before end
  end
  if size > 8 then
    check_type(near(NEAR.mail .. id), 'hash')
    beginning().begin_first(id, at)
    record = load(id, SENT_TO)
  end
  if record then receives.keep(record, record.known[F.receives]) end
  local ok, box, word = pcall(prepare, record, id, channel, value, memo, caller)
  if not ok then
    if string.sub(memo, 1, 1) == 'x' then mailbox.note_refusal(id, memo, box) end
    error(text_of(box), 0)
  end
  if not box then return word end
  if reply == '' then return mailbox.send(box, reply, value, memo, caller) end
  local made = beginning().make_reply(reply, due, inbox, record)
  return { mailbox.send(box, reply, value, memo, caller), made }
end

local answers = each_item(1, send)
close_families()
at_end()
return answers
