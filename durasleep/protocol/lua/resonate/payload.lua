-- @include resonate/json
-- The values of a promise, `{headers?, data?}`. They are kept as their headers, if there are any, and their data, both as
-- they were sent. Nobody opens the data.
local payload = {}

function payload.json(kept)
  if not kept or kept == '' then return '{}' end
  if byte(kept) == 34 then return '{"data":' .. kept .. '}' end
  local last = json.value_end(kept, 1)
  if last == #kept then return '{"headers":' .. kept .. '}' end
  return '{"headers":' .. sub(kept, 1, last) .. ',"data":' .. sub(kept, last + 1) .. '}'
end
