-- What it sends to others, and the promises that it settles.

local CODES = {
  NOT_FOUND = 'N',
  ENDED = 'E',
  MAILBOX_FULL = 'M',
  NOT_ALLOWED = 'A',
  CORRUPT = 'C',
  NEWER_VERSION = 'V',
}

-- What an entry gets that has sent or settled something: one or two letters, because a script cannot write errors (see
-- `runtime/journal.py`). Its execution is saved first: what is sent may be for itself, or for what it has just begun.
local function do_here(record, number, entry, act, ...)
  save(record)
  local ok, word = pcall(act, record, entry, ...)
  if ok then return journal(record, number, entry, STATE.resolved, word) end
  raise_refusal(word)
  local code = string.match(text_of(word), '^(%u[%u_]+)') or ''
  journal(record, number, entry, STATE.rejected, CODES[code] or 'C')
end

-- What another partition is asked for, again and again until it has answered: see fire.lua.
local function ask_there(record, number, entry, body)
  entry.state, entry.stamp = STATE.pending, begin_of(record)
  put_entry(record, number, write_entry(entry, body))
  set_timer(record.id .. '~' .. number .. '~ask', now)
end

function checks.send(_, op)
  check_text(ARGV[op + 3])
  check_text(ARGV[op + 4])
end

local function send_here(record, entry, value)
  local id = entry.child_id
  local target = id == record.id and record or load(id)
  mailbox.check(target, id)
  return string.sub(mailbox.send(mailbox.prepare(target, entry.name, value), '', value), 1, 1)
end

function apply.send(record, op)
  local number, channel, id, value, partition = unpack(ARGV, op + 2, op + 6)
  if raw_of(record, number) then return end
  local entry = { kind = KIND.send, name = channel, child_id = id }
  if ARGV[op] == '6' then return ask_there(record, number, entry, partition .. '\n' .. value) end
  do_here(record, number, entry, send_here, value)
end

function checks.settle(_, op)
  check_text(ARGV[op + 3])
  check_settling(ARGV[op + 4], ARGV[op + 5], ARGV[op + 3])
end

local function settle_here(record, entry, state, value)
  return settle_promise(entry.child_id, state, value, record)[1] == 'settled' and '1' or '0'
end

function apply.settle(record, op)
  local number, id, state, value, partition = unpack(ARGV, op + 2, op + 6)
  if raw_of(record, number) then return end
  local entry = { kind = KIND.settle, name = '', child_id = id }
  if ARGV[op] == '6' then return ask_there(record, number, entry, partition .. '\t' .. state .. '\n' .. value) end
  do_here(record, number, entry, settle_here, state, value)
end
