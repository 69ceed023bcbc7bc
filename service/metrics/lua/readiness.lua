-- See how things stand, and whether anything can be written at all. Stands after room.lua.
-- KEYS     1 backlog  2 failed  3 stream  4 budget  5 calls  6 callers
--          7 a key to write, gone in a second
-- ARGV     1 our share of each limit
-- Returns  {waiting, failed, entries in the stream, ms the budget is closed, why, calls in flight,
--           calls that may be made now, ms until the next one may while there are none}
-- Atomic   the numbers belong to one moment.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('SET', KEYS[7], '1', 'PX', 1000)
local told = redis.call('HMGET', KEYS[4], 'closed', 'why')
local free, opens = open_budget(KEYS[4], KEYS[5], KEYS[6], now, tonumber(ARGV[1])).room('list', true)
local shut = 0
if free < 1 and opens > now + SOON then
  shut = math.ceil(opens - now)
end
return {
  redis.call('ZCARD', KEYS[1]),
  redis.call('ZCARD', KEYS[2]),
  redis.call('XLEN', KEYS[3]),
  math.max(0, math.ceil(tonumber(told[1] or '0') - now)),
  told[2] or '',
  redis.call('ZCARD', KEYS[5]),
  math.max(0, free),
  shut,
}
