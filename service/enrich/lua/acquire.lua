-- Acquire one call: for a deployment that is already started, or a spare one. (Loaded after lib_budget.lua.)
-- KEYS     1 budget  2 calls  3 waiting  4 backlog
-- ARGV     1 name of the call  2 route  3 TTL of a call (ms)  4 share of the rate limit to use
--          5 "1" to acquire only a spare call, "2" only one that no first attempt needs, else "0"
-- Returns  0 if the call may be made now, else the ms to wait before asking again; with "2" also -1: a first
--          attempt is due that might need the call
-- Atomic   calls are counted and acquired at once. A refused job is stored as waiting, so that claim.lua
--          leaves the next calls to deployments already started. A refused spare call is not: tickets go first.
local FIRST_ATTEMPTS_END = '(-2251799813685248' -- -2^51: first attempts that are due have lower scores (lib_lines.lua)
local name, route, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = now_ms()
local budget = open_budget(KEYS[1], KEYS[2], KEYS[3], now, tonumber(ARGV[4]), ttl)
budget.drop_call(name) -- acquired before and only the reply was lost: it must not block itself
if ARGV[5] == '1' then
  local calls, wait = spare_calls(budget, KEYS[4], route, now)
  if calls < 1 then
    return math.ceil(wait)
  end
  budget.acquire(name, now + ttl)
  return 0
elseif ARGV[5] == '2' then -- refreshes that are due do not count: they wait for this call
  local first_attempts = redis.call('ZCOUNT', KEYS[4], '-inf', FIRST_ATTEMPTS_END)
  local free, opens, limit = budget.calls_available(route)
  local spare = limit and free - math.ceil(limit / RESERVED_PART) or math.ceil(free / 2)
  if spare - first_attempts < 1 then
    return first_attempts > 0 and -1 or math.max(RECHECK, math.ceil(opens - now))
  end
  budget.acquire(name, now + ttl)
  return 0
end
local free, opens = budget.calls_available(route, true)
if free >= 1 then
  budget.acquire(name, now + ttl)
  redis.call('ZREM', KEYS[3], name)
  return 0
end
local wait = math.max(1, math.ceil(opens - now))
redis.call('ZADD', KEYS[3], now + wait + 2000, name)
redis.call('PEXPIRE', KEYS[3], 86400000)
return wait
