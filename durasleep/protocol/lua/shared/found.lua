-- What a check has found, see fsck.lua; `repair` is "1" if it repairs.
local findings

local function found(kind, id, text, mend)
  if mend and repair == '1' then mend() end
  for _, value in ipairs({ kind, id, text, mend and (repair == '1' and '1' or '0') or '' }) do
    findings[#findings + 1] = value
  end
end
