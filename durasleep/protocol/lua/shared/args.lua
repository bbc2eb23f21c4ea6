-- Arguments in parts that Redis keeps in one piece with the rest of a small hash (hash-max-listpack-value): one longer
-- value makes a hash of a few hundred bytes three times as large. Above `LIMIT.args_parts_max` parts, this does not
-- pay.
local function has_parts(args)
  return #args > LIMIT.args_part_bytes and #args <= LIMIT.args_part_bytes * LIMIT.args_parts_max
end

local function first_part(args)
  return has_parts(args) and string.sub(args, 1, LIMIT.args_part_bytes) or args
end

-- The other parts, behind all other fields, which are looked for more often.
local function add_parts(record, args)
  if not has_parts(args) then return end
  local words = { 'HSET', record.key }
  for i = 1, math.ceil(#args / LIMIT.args_part_bytes) - 1 do
    words[#words + 1] = F.args .. i
    words[#words + 1] = string.sub(args, LIMIT.args_part_bytes * i + 1, LIMIT.args_part_bytes * (i + 1))
  end
  redis.call(unpack(words))
end
