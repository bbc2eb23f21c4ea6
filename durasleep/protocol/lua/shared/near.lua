local tag

-- A key of this partition that few calls need, so that it is none of KEYS.
local function near(name)
  tag = tag or string.match(timers, '^{[^}]*}:')
  return tag .. name
end
