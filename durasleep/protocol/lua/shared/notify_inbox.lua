-- @include check_type
local hints_for, write_inboxes
do
  local FIELDS_MAX = 1000 -- unpack fails near 8,000 values
  local hints = {} -- inbox -> its messages, as names and values in turn

  local function write_inbox(inbox, fields)
    if is_a(inbox, 'stream') then
      redis.call('XADD', inbox, 'NOMKSTREAM', 'MAXLEN', '~', LIMIT.inbox_entries_max, '*', unpack(fields))
    end
  end

  -- The table to which to add the messages for the reader of an inbox, as names and values. They are hints, so a problem
  -- with the inbox never fails the call. `size` is the number of bytes to add: an inbox is bounded by its entries, and so
  -- by their size.
  function hints_for(who, size)
    local inbox = inbox_prefix .. who
    local fields = hints[inbox]
    if fields and (#fields >= FIELDS_MAX or fields.size + size > LIMIT.inbox_entry_bytes_max) then
      write_inbox(inbox, fields)
      fields = nil
    end
    if not fields then
      fields = { size = 0 }
      hints[inbox] = fields
    end
    fields.size = fields.size + size
    return fields
  end

  -- Once, at the end of a script: all messages for one inbox are one entry.
  function write_inboxes()
    for inbox, fields in pairs(hints) do
      write_inbox(inbox, fields)
    end
  end
end
