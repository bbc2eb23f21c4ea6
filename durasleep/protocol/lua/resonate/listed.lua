-- @include resonate/store
-- Texts that belong to a promise. A few are a field of its hash, each followed by a NUL; many are a set.
local listed = {}

function listed.add(record, field, key, text, bytes_max)
  local few = record[field] or ''
  if few == WORD.many then return redis.call('SADD', key, text) end
  if string.find('\0' .. few, '\0' .. text .. '\0', 1, true) then return end
  if #few + #text < bytes_max then return store.put(record, field, few .. text .. '\0') end
  local all = { text }
  for known in string.gmatch(few, '[^%z]+') do
    all[#all + 1] = known
  end
  in_chunks(all, 'SADD', key)
  store.put(record, field, WORD.many)
end
