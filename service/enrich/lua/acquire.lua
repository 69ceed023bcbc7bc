-- Acquire one more call for a deployment that is already started. (lib_budget.lua stands before.)
-- KEYS     1 budget  2 calls  3 waiting
-- ARGV     1 job  2 route  3 TTL of a call (ms)  4 share of the rate limit to use
-- Returns  0 if the call may be made now, else the ms to wait before asking again
-- Atomic   calls are counted and acquired at once. A refused job is stored as waiting, so that claim.lua
--          leaves the next calls to deployments already started.
local now = now_ms()
local budget = open_budget(KEYS[1], KEYS[2], KEYS[3], now, tonumber(ARGV[4]))
budget.drop_call(ARGV[1]) -- acquired before and only the reply was lost: it must not block itself
local free, opens = budget.calls_available(ARGV[2], true)
if free >= 1 then
  budget.acquire(ARGV[1], now + tonumber(ARGV[3]))
  redis.call('ZREM', KEYS[3], ARGV[1])
  return 0
end
local wait = math.max(1, math.ceil(opens - now))
redis.call('ZADD', KEYS[3], now + wait + 2000, ARGV[1])
redis.call('PEXPIRE', KEYS[3], 86400000)
return wait
