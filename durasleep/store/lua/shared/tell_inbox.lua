-- @include check_type
local FIELDS_MAX = 1000 -- unpack fails near 8,000 values
local hints = {} -- inbox -> what it is told, as names and values in turn

local function write_inbox(inbox, fields)
  if is_a(inbox, 'stream') then
    redis.call('XADD', inbox, 'NOMKSTREAM', 'MAXLEN', '~', LIMIT.inbox_entries_max, '*', unpack(fields))
  end
end

-- Where to add what whoever reads an inbox is to hear, as names and values. A hint, which never fails what it speaks of.
local function hints_for(who)
  local inbox = inbox_prefix .. who
  local fields = hints[inbox]
  if fields and #fields >= FIELDS_MAX then
    write_inbox(inbox, fields)
    fields = nil
  end
  if not fields then
    fields = {}
    hints[inbox] = fields
  end
  return fields
end

-- Once, at the end of a script: what one inbox is told is one entry.
local function write_inboxes()
  for inbox, fields in pairs(hints) do
    write_inbox(inbox, fields)
  end
end
