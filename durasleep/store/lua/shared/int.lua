-- A whole number as text: Lua's own conversion keeps 14 digits, instants have up to 15.
local function int(number)
  return string.format('%.0f', number)
end
