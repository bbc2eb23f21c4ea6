-- @include check_type

-- A hint for whoever reads an inbox, if it does; a hint never fails what it speaks of.
local function tell_inbox(who, ...)
  local inbox = inbox_prefix .. who
  if is_a(inbox, 'stream') then
    redis.call('XADD', inbox, 'NOMKSTREAM', 'MAXLEN', '~', LIMIT.inbox_entries_max, '*', ...)
  end
end
