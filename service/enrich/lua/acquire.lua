-- Take one call from the budget: for a deployment already begun, or a spare one. (lib_budget.lua stands before.)
-- KEYS     1 budget  2 calls  3 callers  4 backlog
-- ARGV     1 call id  2 route  3 life of a call (ms)  4 share of the limit that is ours
--          5 1 to take only a spare call, else 0
-- Returns  0 when the call may be made now, else the ms to wait before asking again
-- Atomic   the room is read and taken at once. A deployment already begun that is refused is
--          remembered, so that claiming leaves the next calls to it; a refused spare call is not.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local budget = open_budget(KEYS[1], KEYS[2], KEYS[3], now, tonumber(ARGV[4]))
budget.forget(ARGV[1]) -- taken before, and only the reply was lost: it must not stand in its own way
if ARGV[5] == '1' then
  local calls, wait = left_over(budget, KEYS[4], ARGV[2], now)
  if calls < 1 then
    return math.ceil(wait)
  end
  budget.take(ARGV[1], now + tonumber(ARGV[3]))
  return 0
end
local free, opens = budget.room(ARGV[2], true)
if free >= 1 then
  budget.take(ARGV[1], now + tonumber(ARGV[3]))
  redis.call('ZREM', KEYS[3], ARGV[1])
  return 0
end
local wait = math.max(1, math.ceil(opens - now))
redis.call('ZADD', KEYS[3], now + wait + 2000, ARGV[1])
redis.call('PEXPIRE', KEYS[3], 86400000)
return wait
