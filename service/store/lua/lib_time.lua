-- Define now_ms(), the only clock of the scripts. load_script puts this file before every script.
-- KEYS     none
-- ARGV     none
-- Returns  nothing; defines now_ms() -> server time in whole ms, microseconds past that millisecond
-- Atomic   it runs inside the script that follows, so all steps of that script use one time.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000), time[2] % 1000
end
