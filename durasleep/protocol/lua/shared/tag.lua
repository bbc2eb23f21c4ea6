-- The beginning of all keys of this partition.
local tag = string.match(timers, '^{[^}]*}:')
