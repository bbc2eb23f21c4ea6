local own_tag

-- A key of this partition that few calls need, so that it is none of KEYS.
local function near(name)
  own_tag = own_tag or string.match(timers, '^{[^}]*}:')
  return own_tag .. name
end

-- Whether the namespace has several partitions.
local function has_partitions()
  return string.find(near(''), ':%d+%.%d+}:$') ~= nil
end
