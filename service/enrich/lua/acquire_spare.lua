-- Acquire one spare call. (lib_budget.lua and lib_spare.lua stand before.)
-- KEYS     1 budget  2 calls  3 waiting  4 backlog
-- ARGV     1 name of the call  2 route  3 TTL of a call (ms)  4 share of the rate limit to use
-- Returns  0 if the call may be made now, else the ms to wait before asking again
-- Atomic   spare calls are counted and acquired at once. A refused call is not stored as waiting: tickets
--          go first.
local now = now_ms()
local budget = open_budget(KEYS[1], KEYS[2], KEYS[3], now, tonumber(ARGV[4]))
budget.drop_call(ARGV[1]) -- acquired before and only the reply was lost: it must not block itself
local calls, wait = spare_calls(budget, KEYS[4], ARGV[2], now)
if calls < 1 then
  return math.ceil(wait)
end
budget.acquire(ARGV[1], now + tonumber(ARGV[3]))
return 0
