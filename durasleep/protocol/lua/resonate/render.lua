-- @include resonate/store
-- @include resonate/payload
-- @include resonate/tags
-- What answers show.
local render = {
  STATE = {
    [STATE.pending] = 'pending',
    [STATE.resolved] = 'resolved',
    [STATE.rejected] = 'rejected',
    [STATE.canceled] = 'rejected_canceled',
    [STATE.timedout] = 'rejected_timedout',
  },
  TASK = { p = 'pending', a = 'acquired', s = 'suspended', h = 'halted', f = 'fulfilled' },
}

function render.promise(record)
  store.load_whole(record.id)
  local settled = record[R.settled]
  return table.concat({
    '{"id":',
    json.quoted(record.id),
    ',"state":"',
    render.STATE[record[R.state]],
    '","param":',
    payload.json(store.long_of(record, R.param)),
    ',"value":',
    payload.json(store.long_of(record, R.value)),
    ',"tags":',
    tags.json(store.long_of(record, R.tags), record.id, record[R.target]),
    ',"timeoutAt":',
    record[R.timeout],
    ',"createdAt":',
    record[R.created],
    settled and ',"settledAt":' .. settled or '',
    '}',
  })
end

function render.task(record)
  local ttl, pid = record[R.ttl], record[R.pid]
  return table.concat({
    '{"id":',
    json.quoted(record.id),
    ',"state":"',
    render.TASK[record[R.task]],
    '","version":',
    record[R.version] or '0',
    ',"resumes":',
    record[R.resumes] or '0',
    ttl and ',"ttl":' .. ttl or '',
    pid and ',"pid":' .. json.quoted(pid) or '',
    '}',
  })
end
