-- @include check_type
local FIELDS_MAX = 1000 -- unpack fails near 8,000 values
local hints = {} -- inbox -> what it is told, as names and values in turn

local function write_inbox(inbox, fields)
  if is_a(inbox, 'stream') then
    redis.call('XADD', inbox, 'NOMKSTREAM', 'MAXLEN', '~', LIMIT.inbox_entries_max, '*', unpack(fields))
  end
end

-- A hint for whoever reads an inbox, if it does; a hint never fails what it speaks of.
local function tell_inbox(who, ...)
  local inbox = inbox_prefix .. who
  local fields = hints[inbox] or {}
  if #fields >= FIELDS_MAX then
    write_inbox(inbox, fields)
    fields = {}
  end
  for _, value in ipairs({ ... }) do
    fields[#fields + 1] = value
  end
  hints[inbox] = fields
end

-- Once, at the end of a script: what one inbox is told is one entry.
local function write_inboxes()
  for inbox, fields in pairs(hints) do
    write_inbox(inbox, fields)
  end
end
