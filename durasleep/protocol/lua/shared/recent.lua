-- @include check_type
-- @include stats
local write_recents, note_ending
do
  local ENDINGS_EACH = 16 -- in one entry: a stream is bounded by its entries, and so by their size
  local VALUES_EACH = 8 * ENDINGS_EACH
  local recents, failures = {}, {} -- endings for people and dashboards, as names and values in turn

  local function write_endings(stream, endings)
    if #endings > 0 and is_a(stream, 'stream') then
      redis.call('XADD', stream, 'MAXLEN', '~', LIMIT.recent_max, '*', 'z', now_text, unpack(endings))
    end
  end

  function write_recents()
    write_endings(recent, recents)
    write_endings(failed, failures)
    recents, failures = {}, {}
  end

  local function note(endings, record, state)
    local n = #endings
    endings[n + 1], endings[n + 2], endings[n + 3], endings[n + 4] = 'i', record.id, 's', state
    endings[n + 5], endings[n + 6] = 'f', record.func
    endings[n + 7], endings[n + 8] = 'c', record.created or record.incarnation
    if n + 8 == VALUES_EACH then write_recents() end
  end

  -- All endings of one entry happened at its `z`. Failures are also kept apart, so that successes do not push them out.
  function note_ending(record, state)
    note(recents, record, state)
    if record.func == '' then return end
    count_ending(record.func, state, record.created or record.incarnation)
    if state ~= STATE.resolved then note(failures, record, state) end
  end
end
