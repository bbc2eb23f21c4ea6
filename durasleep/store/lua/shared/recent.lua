-- @include check_type
local ENDINGS_EACH = 16 -- in one entry: the stream is bounded by its entries, and so by what they hold
local recents = {} -- endings for dashboards, as names and values in turn

local function write_recents()
  if #recents > 0 and is_a(recent, 'stream') then
    redis.call('XADD', recent, 'MAXLEN', '~', LIMIT.recent_max, '*', unpack(recents))
  end
  recents = {}
end

local function note_ending(id, state)
  local n = #recents
  recents[n + 1], recents[n + 2], recents[n + 3], recents[n + 4] = 'i', id, 's', state
  if n + 4 == 4 * ENDINGS_EACH then write_recents() end
end
