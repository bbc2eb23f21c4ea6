-- @include budget
-- @include text_of
-- Commands that would move the rest of this script to another database, or delete the data under it.
local FORBIDDEN = { SELECT = true, SWAPDB = true, FLUSHALL = true, FLUSHDB = true }
local WORDS_MAX = 7000 -- unpack fails near 8,000 values
local namespace = string.match(timers, '^{([^:}]*)')
local tag = string.match(timers, '^{[^}]*}:')
local own = tag .. 'own:' -- the beginning of the keys of users that are on this node
local is_one_of_many = string.find(tag, ':%d+%.%d+}:$') ~= nil
local KEYLESS = { PING = true, ECHO = true, TIME = true, PUBLISH = true }

-- Adds a reply of Redis to `parts`, as text that needs no library: `$<bytes>\n...`, `:<int>\n`, `+<status>\n`, `_\n`,
-- `*<n>\n...`. Answers how many bytes of `room` are left; below 0 nothing more is added.
local function write_reply(parts, reply, room)
  if type(reply) == 'table' and not reply.ok then
    parts[#parts + 1] = '*' .. #reply .. '\n'
    room = room - #parts[#parts]
    for i = 1, #reply do
      if room < 0 then return room end
      room = write_reply(parts, reply[i], room)
    end
    return room
  end
  local text
  if type(reply) == 'string' then
    room = room - #reply
    text = '$' .. #reply .. '\n'
    if room >= 0 then text = text .. reply end
  elseif type(reply) == 'number' then
    text = ':' .. string.format('%.0f', reply) .. '\n'
  elseif type(reply) == 'table' then
    text = '+' .. reply.ok .. '\n'
  else
    text = '_\n'
  end
  parts[#parts + 1] = text
  return room - 16
end

local function is_movable(flags)
  for _, flag in pairs(flags) do
    if flag == 'movablekeys' or type(flag) == 'table' and flag.ok == 'movablekeys' then return true end
  end
  return false
end

-- Commands with any number of keys: a test compares them with those of a real server.
local KEYS_TO_THE_END = {}
string.gsub(
  'BITOP DEL EXISTS MGET MSET MSETNX PFCOUNT PFMERGE SDIFF SDIFFSTORE SINTER SINTERSTORE SUNION SUNIONSTORE TOUCH UNLINK',
  '%u+',
  function(name)
    KEYS_TO_THE_END[name] = true
  end
)

-- The keys of a command; nil if they are not known. fakeredis has no GETKEYS, but says where the first keys stand.
local function keys_of(words)
  local keys = redis.pcall('COMMAND', 'GETKEYS', unpack(words))
  if not keys.err then return keys end
  if not string.find(text_of(keys.err), 'unknown command', 1, true) then return nil end
  local info = redis.pcall('COMMAND', 'INFO', string.lower(words[1]))[1]
  if not info or info[4] == 0 or is_movable(info[3]) then return nil end
  local last = KEYS_TO_THE_END[string.upper(words[1])] and #words - 1 or info[5]
  keys = {}
  for at = info[4], last, info[6] do
    keys[#keys + 1] = words[at + 1] -- the command itself is word 0
  end
  return keys
end

-- In a namespace with several partitions all keys of a command must be on the node of this one.
local function check_keys(id, words)
  local keys = keys_of(words)
  if not keys then
    if KEYLESS[string.upper(words[1])] then return end
    error('NOT_ALLOWED a transaction may not use ' .. words[1] .. ' here: its keys are not known', 0)
  end
  for _, key in ipairs(keys) do
    if string.sub(key, 1, #own) ~= own then
      local why = 'may be on another node than ' .. id .. ': name it by ctx.key(...)'
      error('NOT_ALLOWED the key ' .. key .. ' of a transaction ' .. why, 0)
    end
  end
end

-- A user's command may not touch durasleep's keys. The commands are in ARGV from `at` to `stop`, each as the number of
-- its words and the words.
local function check_transaction(id, at, stop)
  while at <= stop do
    local size = tonumber(ARGV[at])
    if size < 1 or size > WORDS_MAX then error('INVALID a command has 1 to ' .. WORDS_MAX .. ' words', 0) end
    if FORBIDDEN[string.upper(ARGV[at + 1])] then error('INVALID a transaction may not use ' .. ARGV[at + 1], 0) end
    for i = at + 2, at + size do
      local owner = string.match(ARGV[i], '^{([^}]*)}:')
      local is_ours = owner and (owner == namespace or string.match(owner, '^(.*):[%d.]+$') == namespace)
      if is_ours and not string.find(ARGV[i], '^{[^}]*}:own:') then
        error('INVALID a transaction may not touch ' .. ARGV[i], 0)
      end
    end
    if is_one_of_many then check_keys(id, { unpack(ARGV, at + 1, at + size) }) end
    at = at + size + 1
  end
end

local function in_words(number, command, what)
  return '-command ' .. number .. ' (' .. command .. ') ' .. what .. '\n'
end

-- Executes them. The transaction ends at a command that fails, or whose answer is larger than a journal entry may be.
-- As in MULTI, the commands before it stay, and the text says how many.
local function run_transaction(at, stop)
  local replies, done, room = {}, 0, LIMIT.transaction_bytes_max
  while at <= stop do
    local size, words = tonumber(ARGV[at]), {}
    for i = 1, size do
      words[i] = ARGV[at + i]
    end
    at = at + size + 1
    local ok, reply = pcall(redis.call, unpack(words))
    if not ok then
      local text = 'failed, ' .. done .. ' before it were carried out: ' .. text_of(reply)
      return STATE.rejected, in_words(done + 1, words[1], text)
    end
    done = done + 1
    room = write_reply(replies, reply, room)
    if room < 0 then
      local text = 'was carried out, as all before it, but the transaction would answer more than '
      return STATE.rejected, in_words(done, words[1], text .. LIMIT.transaction_bytes_max .. ' bytes')
    end
  end
  spend(LIMIT.transaction_bytes_max - room, 0)
  return STATE.resolved, '*' .. done .. '\n' .. table.concat(replies)
end
