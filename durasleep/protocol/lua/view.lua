-- What executions publish, for clients. With an `inbox`, that is notified of the next change; `what` is "unwatch" if it is
-- not to be notified any more, else empty.
-- Answers per item: state, the last number of the earlier runs, "1" if the inbox will be notified, and what is published,
-- as names and values in turn; of "unwatch" "struck".
-- @include keys
-- @include each_item
-- @include load
-- @include full
-- @include wait_for
-- @include extras
-- @include check_size
-- @include notify_inbox

local function read(id)
  local key = near(NEAR.view .. id)
  check_type(key, 'hash')
  if redis.call('HLEN', key) > 2 * LIMIT.view_steps_max then error('CORRUPT ' .. key .. ' is not a view of ours', 0) end
  local fields, bytes = redis.call('HGETALL', key), 0
  for i = 1, #fields, 2 do
    check_size(fields[i] .. ' of ' .. key, fields[i + 1])
    bytes = bytes + #fields[i + 1]
  end
  spend(bytes, 0)
  return fields
end

local function view(at)
  local id, inbox, what = unpack(ARGV, at + 1, at + 3)
  if what == 'unwatch' then
    extras.unwatch(id, inbox)
    return 'struck'
  end
  local record = load(id)
  if not record or record.kind ~= KIND.execution then error('NOT_FOUND there is no execution ' .. id, 0) end
  local answer = { record.state, redis.call('HGET', record.key, F.base) or '0', '' }
  if extras.has(record, 'v') then
    local fields = read(id)
    for i = 1, #fields, 2 do
      if fields[i] ~= VIEW.watchers then
        answer[#answer + 1] = fields[i]
        answer[#answer + 1] = fields[i + 1]
      end
    end
  end
  if inbox ~= '' and record.state == STATE.pending and not is_full and extras.watch(record, inbox) then
    open_inbox(inbox)
    answer[3] = '1'
    save(record)
  end
  return answer
end

local answers = each_item(1, view)
write_inboxes()
return answers
