-- @include near
-- @include int

-- Executions by their function and by their labels, for lists: each is one member of a sorted set whose scores are all
-- 0, and so is in the order of its letters: value, when it was created, id. Nothing is written when it sleeps, wakes or
-- ends; what is gone is removed later (see index.lua).
local add_to_index
do
  local LABEL_END = '\31' -- between two labels

  local function index_member(value, created, id)
    return value .. '\t' .. string.format('%013.0f', tonumber(created)) .. '\t' .. id
  end

  -- The value of a label among those of an execution; of "func" its function.
  local function value_of_label(label, func, labels)
    if label == 'func' then return func end
    local _, start = string.find(LABEL_END .. labels, LABEL_END .. label .. '=', 1, true)
    return start and string.match(labels, '^[^' .. LABEL_END .. ']*', start)
  end

  -- `indexed` are names of labels, each followed by a space.
  function add_to_index(indexed, id, func, labels, created)
    for label in string.gmatch(indexed, '(%S+) ') do
      local value = value_of_label(label, func, labels or '')
      if value then redis.call('ZADD', near(NEAR.index .. label), 0, index_member(value, created, id)) end
    end
  end
end
