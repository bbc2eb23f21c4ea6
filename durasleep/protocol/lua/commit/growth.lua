local makes_more = { child = true, detached = true, transaction = true, send = true }

-- A full Redis takes no other executions, no commands of users and no large values, and only a little from each
-- execution, so that the existing ones may end. An entry that was written before is not counted again.
local function check_growth(record, op, stop, payload, is_ending)
  local before = tonumber(redis.call('HGET', record.key, F.grown) or '') or 0
  local grown, may_pass = before, #payload <= (is_ending and LIMIT.full_value_bytes_max or LIMIT.full_bytes_max)
  while op <= stop do
    local kind, size = ARGV[op + 1], tonumber(ARGV[op])
    local frees = kind == 'cancel'
      or kind == 'publish'
      or kind == 'trace'
      or kind == 'checkpoint' and ARGV[op + 3] == ''
    if not (frees or record.known[ARGV[op + 2]]) then
      grown = grown + LIMIT.full_entry_bytes
      for i = op + 3, op + size do
        grown = grown + #ARGV[i]
      end
      may_pass = may_pass and not makes_more[kind]
    end
    op = op + size + 1
  end
  if not may_pass or (grown > before and grown > LIMIT.full_bytes_max) then
    error('FULL Redis has reached its maxmemory: ' .. record.id .. ' waits: its commit needs more memory', 0)
  end
  if grown > before and not is_ending then put(record, F.grown, int(grown)) end
end
