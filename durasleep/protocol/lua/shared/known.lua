-- @include text_of

-- An unknown code of one small letter belongs to a newer version: a promise that has it is left to that version.
local PLACES = {
  [PLACE.queued] = true,
  [PLACE.suspended] = true,
  [PLACE.delayed] = true,
  [PLACE.halted] = true,
  [PLACE.parked] = true,
}
local ENTRIES = {
  [KIND.timer] = true,
  [KIND.promise] = true,
  [KIND.step] = true,
  [KIND.child] = true,
  [KIND.transaction] = true,
  [KIND.cancel] = true,
  [KIND.detached] = true,
  [KIND.patch] = true,
  [KIND.version] = true,
  [KIND.receive] = true,
  [KIND.send] = true,
  [KIND.settle] = true,
}
local KINDS = { [KIND.execution] = true, [KIND.promise] = true, [KIND.timer] = true }

local function raise_newer(what)
  error('NEWER_VERSION ' .. what .. ': only a newer version knows it', 0)
end

-- Refuses a promise that this version cannot take out of its place, before anything is written.
local function check_known(record)
  local place, kind = record.place, record.kind
  if place and not PLACES[place] then raise_newer(record.id .. ' is in place ' .. place) end
  if kind and not KINDS[kind] then raise_newer(record.id .. ' is of kind ' .. kind) end
end

local function is_newer(problem)
  return string.find(text_of(problem), '^NEWER_VERSION') ~= nil
end
