-- What an execution publishes is kept as long as that.
function checks.view(id)
  local key = near(NEAR.view .. id)
  check_type(key, 'hash')
  if redis.call('EXISTS', key) == 0 then return '' end
  local record = load(id)
  if not record then
    found('view', id, 'has published something, but is gone', function()
      redis.call('UNLINK', key)
    end)
    return ''
  end
  if not extras.has(record, 'v') then
    found('view', id, 'has published something, but does not refer to it', function()
      extras.note(record, 'v')
      save(record)
    end)
  end
  local left, own = redis.call('PTTL', record.key), redis.call('PTTL', key)
  if left ~= -1 and own == -1 then
    found('kept', key, 'is kept for ever, but what has published it is not', function()
      redis.call('PEXPIRE', key, math.max(left, 1))
    end)
  elseif left == -1 and own ~= -1 then
    found('expiring', key, 'expires, but what publishes it does not', function()
      redis.call('PERSIST', key)
    end)
  end
  return ''
end

-- An execution that refers to its view has one.
local function check_extras(record)
  if not extras.has(record, 'v') or redis.call('EXISTS', near(NEAR.view .. record.id)) == 1 then return end
  found('view', record.id, 'refers to what it publishes, but there is nothing', function()
    extras.remove(record, 'v')
  end)
end
