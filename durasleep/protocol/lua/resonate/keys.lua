local own_prefix, timers = unpack(KEYS)
