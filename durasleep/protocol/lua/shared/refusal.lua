-- @include text_of
local REFUSED = { '^OOM', '^NOPERM', "can't run this command", 'ACL failure', '^READONLY', '^MISCONF', '^NOREPLICAS' }

-- An error about the server, not about the data: no data is quarantined for it.
local function raise_refusal(problem)
  local text = text_of(problem)
  for _, pattern in ipairs(REFUSED) do
    if string.find(text, pattern) then error(text, 0) end
  end
end
