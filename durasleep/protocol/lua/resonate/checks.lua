-- What the fields of a request must be. Each check answers nothing, or the rest of a sentence.
local check = { INTEGER_MAX = 9007199254740991 }

function check.name(value)
  if type(value) ~= 'string' or value == '' then return 'must be a text that is not empty' end
  if #value > LIMIT.resonate_id_bytes_max then return 'has more than ' .. LIMIT.resonate_id_bytes_max .. ' bytes' end
  if string.find(value, '\0', 1, true) then return 'must not have a NUL' end
end

function check.is_whole(value)
  return type(value) == 'number' and value == math.floor(value) and value < math.huge
end

function check.count(value)
  if not check.is_whole(value) or value < 0 then return 'must be a whole number, not negative' end
end

function check.positive(value)
  if not check.is_whole(value) or value < 1 then return 'must be a whole number, at least 1' end
end

function check.list(value)
  if type(value) ~= 'table' or (next(value) ~= nil and #value == 0) then return 'must be a list' end
end

function check.address(value)
  local problem = check.name(value)
  if problem then return problem end
  if not string.find(value, '^%a[%w+.-]*://') then return 'must be an address with a scheme' end
end

check.ENDINGS = {
  resolved = STATE.resolved,
  rejected = STATE.rejected,
  rejected_canceled = STATE.canceled,
}

function check.ending(value)
  if not check.ENDINGS[value] then return 'must be resolved, rejected or rejected_canceled' end
end

-- Names and checks in turn; answers the first thing that is wrong with an object.
function check.wrong(object, ...)
  local asked = { ... }
  for i = 1, #asked, 2 do
    local problem = asked[i + 1](object[asked[i]])
    if problem then return asked[i] .. ' ' .. problem end
  end
end

-- A number that all languages read as it is written.
function check.clamp(number)
  return math.min(number, check.INTEGER_MAX) + 0
end
