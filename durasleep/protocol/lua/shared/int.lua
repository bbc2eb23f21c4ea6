local texts = {}
-- A whole number as text: Lua's own conversion keeps 14 digits, and instants have up to 15. A script often needs the
-- same few.
local function int(number)
  local text = texts[number]
  if not text then
    text = string.format('%.0f', number)
    texts[number] = text
  end
  return text
end
