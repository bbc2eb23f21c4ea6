local last_number, last_text
-- A whole number as text: Lua's own conversion keeps 14 digits, instants have up to 15. Most are asked for again at once.
local function int(number)
  if number ~= last_number then
    last_number, last_text = number, string.format('%.0f', number)
  end
  return last_text
end
