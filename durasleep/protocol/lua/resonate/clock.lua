-- @include now
-- A caller that simulates says what time it is.
if now_ms and now_ms ~= '' then
  now, now_text = tonumber(now_ms), now_ms
end
