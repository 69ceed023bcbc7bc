-- Define wake(wakeup), which wakes one idle worker. load_script puts this file before every script.
-- KEYS     none of its own: wake takes the name of the wakeup list
-- ARGV     none
-- Returns  nothing; defines wake(wakeup), which adds an element if the list is empty
-- Atomic   a worker that blocks on the list wakes only after the script that follows has finished.
local function wake(wakeup)
  if redis.call('LLEN', wakeup) == 0 then
    redis.call('LPUSH', wakeup, '1')
    redis.call('PEXPIRE', wakeup, 60000)
  end
end
