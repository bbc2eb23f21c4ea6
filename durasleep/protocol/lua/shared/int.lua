local texts = {}
-- A whole number as text: Lua's own conversion keeps 14 digits, instants have up to 15. A script needs few of them often.
local function int(number)
  local text = texts[number]
  if not text then
    text = string.format('%.0f', number)
    texts[number] = text
  end
  return text
end
