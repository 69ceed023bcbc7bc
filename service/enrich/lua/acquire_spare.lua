-- Take one call of those that are left over. (room.lua and leftover.lua stand before.)
-- KEYS     1 budget  2 calls  3 callers  4 backlog
-- ARGV     1 name of the call  2 route  3 life of a call (ms)  4 share of the limit that is ours
-- Returns  0 when it may be made now, else the ms to wait before asking again
-- Atomic   what is left over is read and taken at once. Who is refused is not remembered: claiming
--          goes first.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local budget = open_budget(KEYS[1], KEYS[2], KEYS[3], now, tonumber(ARGV[4]))
budget.forget(ARGV[1]) -- taken before, and only the reply was lost: it must not stand in its own way
local calls, wait = left_over(budget, KEYS[4], ARGV[2], now)
if calls < 1 then
  return math.ceil(wait)
end
budget.take(ARGV[1], now + tonumber(ARGV[3]))
return 0
