-- Measure the sizes and the budget, and write a key to prove that Redis accepts writes.
-- (enrich/lua/lib_budget.lua stands before.)
-- KEYS     1 backlog  2 failed  3 stream  4 budget  5 calls  6 waiting
--          7 a key to write, which expires after a second
-- ARGV     1 share of the rate limit to use
-- Returns  {tickets, failed, entries in the stream, ms the budget is closed, the reason, calls in flight,
--           calls available now, ms until the next one if there are none}
-- Atomic   the numbers belong to one moment.
local now = now_ms()
redis.call('SET', KEYS[7], '1', 'PX', 1000)
local closed = redis.call('HMGET', KEYS[4], 'closed_until', 'closed_reason')
local budget = open_budget(KEYS[4], KEYS[5], KEYS[6], now, tonumber(ARGV[1]))
local free, opens = budget.calls_available('list', true)
local wait = 0
if free < 1 and opens > now + RECHECK then
  wait = math.ceil(opens - now)
end
return {
  redis.call('ZCARD', KEYS[1]),
  redis.call('ZCARD', KEYS[2]),
  redis.call('XLEN', KEYS[3]),
  math.max(0, math.ceil(tonumber(closed[1] or '0') - now)),
  closed[2] or '',
  redis.call('ZCARD', KEYS[5]),
  math.max(0, free),
  wait,
}
