-- See how things stand, and whether anything can be written at all.
-- KEYS     1 backlog  2 failed  3 stream  4 budget  5 calls  6 a key to write, gone in a second
-- ARGV     none
-- Returns  {waiting, failed, entries in the stream, ms the budget is closed, why, calls in flight}
-- Atomic   the numbers belong to one moment.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('SET', KEYS[6], '1', 'PX', 1000)
local told = redis.call('HMGET', KEYS[4], 'closed', 'why')
return {
  redis.call('ZCARD', KEYS[1]),
  redis.call('ZCARD', KEYS[2]),
  redis.call('XLEN', KEYS[3]),
  math.max(0, math.ceil(tonumber(told[1] or '0') - now)),
  told[2] or '',
  redis.call('ZCOUNT', KEYS[5], now, '+inf'),
}
