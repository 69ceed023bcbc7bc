-- End the wait of one worker, because it stops.
-- KEYS     1 wakeup list of this worker alone
-- ARGV     none
-- Returns  nothing
-- Atomic   an element without a TTL would stay if the worker ended between the two commands.
-- Flags    allow-oom: a worker must be able to stop while memory is full.
wake(KEYS[1])
