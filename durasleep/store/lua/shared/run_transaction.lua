-- @include text_of
-- What would move the rest of this script to another database, or wipe it away under it.
local FORBIDDEN = { SELECT = true, SWAPDB = true, FLUSHALL = true, FLUSHDB = true }
local WORDS_MAX = 7000 -- unpack fails near 8,000 values
local namespace = string.match(timers, '^{([^:}]*)')

-- A reply of Redis as text that needs no library: `$<bytes>\n...`, `:<int>\n`, `+<status>\n`, `_\n`, `*<n>\n...`.
local function write_reply(reply)
  if type(reply) == 'string' then return '$' .. #reply .. '\n' .. reply end
  if type(reply) == 'number' then return ':' .. string.format('%.0f', reply) .. '\n' end
  if type(reply) ~= 'table' then return '_\n' end
  if reply.ok then return '+' .. reply.ok .. '\n' end
  local parts = { '*' .. #reply .. '\n' }
  for i = 1, #reply do
    parts[i + 1] = write_reply(reply[i])
  end
  return table.concat(parts)
end

-- A user's command may not touch what is ours. The commands stand in ARGV from `at` to `stop`, each as how many words
-- and the words.
local function check_transaction(at, stop)
  while at <= stop do
    local size = tonumber(ARGV[at])
    if size < 1 or size > WORDS_MAX then error('INVALID a command has 1 to ' .. WORDS_MAX .. ' words', 0) end
    if FORBIDDEN[string.upper(ARGV[at + 1])] then error('INVALID a transaction may not use ' .. ARGV[at + 1], 0) end
    for i = at + 2, at + size do
      local owner = string.match(ARGV[i], '^{([^}]*)}:')
      if owner and (owner == namespace or string.match(owner, '^(.*):%d+$') == namespace) then
        error('INVALID a transaction may not touch ' .. ARGV[i], 0)
      end
    end
    at = at + size + 1
  end
end

-- Executes them. One that fails ends the transaction; as in MULTI, those before it stay, and the text says how many.
local function run_transaction(at, stop)
  local replies, done = {}, 0
  while at <= stop do
    local size, words = tonumber(ARGV[at]), {}
    for i = 1, size do
      words[i] = ARGV[at + i]
    end
    at = at + size + 1
    local ok, reply = pcall(redis.call, unpack(words))
    if not ok then
      return STATE.rejected,
        '-command '
          .. (done + 1)
          .. ' ('
          .. words[1]
          .. ') failed, '
          .. done
          .. ' before it were carried out: '
          .. text_of(reply)
          .. '\n'
    end
    done = done + 1
    replies[done] = write_reply(reply)
  end
  return STATE.resolved, '*' .. done .. '\n' .. table.concat(replies)
end
