local promise_prefix, queue_prefix, inbox_prefix, worker_prefix, schedule_prefix, timers, wake, workers, closing, halted, recent, failed, waiters_prefix, run_prefix, schedules =
  unpack(KEYS)
