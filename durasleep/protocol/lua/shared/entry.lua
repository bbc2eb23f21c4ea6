-- @include now

-- A journal entry is one field: kind and state, then stamp, due, name and child id, then the payload. The time at which
-- it began is kept in a free place: as its stamp while it is pending, as its due time when it has settled.
local ENTRY = '^(%a)(%a)\t(%d*)\t(%d*)\t([^\t\n]*)\t([^\t\n]*)\n()'

-- The head of an entry, or nil if this is not an entry.
local function read_entry(raw)
  if not raw then return nil end
  local kind, state, stamp, due, name, child_id, body = string.match(raw, ENTRY)
  if not kind then return nil end
  return { kind = kind, state = state, stamp = stamp, due = due, name = name, child_id = child_id, body = body }
end

-- Whether it asks another partition for something: only such an entry has a body while it is pending, which says what.
local function is_foreign(raw, entry)
  return entry.child_id ~= '' and entry.state == STATE.pending and entry.body <= #raw
end

-- Whether an entry has settled, and with this stamp.
local function has_stamp(raw, stamp)
  return string.sub(raw, 3, 4 + #stamp) == '\t' .. stamp .. '\t'
end

-- When something begins: in ms since the incarnation of its execution; empty for the first second, the usual case.
local function begin_of(record)
  local ms = now - record.incarnation
  return ms >= LIMIT.begin_ms_min and int(ms) or ''
end

-- A pending timer: the most frequent entry.
local function timer_entry(begun, due, name)
  return KIND.timer .. STATE.pending .. '\t' .. begun .. '\t' .. due .. '\t' .. name .. '\t\n'
end

local function write_entry(entry, payload)
  return entry.kind
    .. entry.state
    .. '\t'
    .. (entry.stamp or '')
    .. '\t'
    .. (entry.due or '')
    .. '\t'
    .. (entry.name or '')
    .. '\t'
    .. (entry.child_id or '')
    .. '\n'
    .. payload
end
