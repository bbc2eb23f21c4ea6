-- @include resonate/checks
-- @include resonate/sent
-- @include resonate/promises
-- What settles a promise, checked: its state and value as they are kept; or nothing, a status and a sentence.
function promises.read_ending(data, members)
  local wrong_data = check.wrong(data, 'id', check.name, 'state', check.ending)
  if wrong_data then return nil, 400, wrong_data end
  local value, wrong_value = payload.read(members, '"value"')
  if not value then return nil, 400, 'value ' .. wrong_value end
  if is_full and #value > LIMIT.full_value_bytes_max then return nil, 503, FULL end
  return check.ENDINGS[data.state], value
end
