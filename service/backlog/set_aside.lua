-- Keep a genuine event that could not be mapped, for a person.
-- KEYS     1 delivery mark  2 failed  3 failures
-- ARGV     1 token of this act  2 job  3 failure (msgpack)  4 life of the mark (ms)
--          5 how long failures are kept (ms)
-- Returns  1 when it is kept now, 0 when it was kept before
-- Atomic   mark and event together, as for a ticket.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local mark = redis.call('GET', KEYS[1])
if mark then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return string.sub(mark, 1, #ARGV[1]) == ARGV[1] and 1 or 0
end
redis.call('ZADD', KEYS[2], now, ARGV[2])
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[4])
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[5]), 'LIMIT', 0, 100)
for _, name in ipairs(old) do
  redis.call('ZREM', KEYS[2], name)
  redis.call('HDEL', KEYS[3], name)
end
return 1
