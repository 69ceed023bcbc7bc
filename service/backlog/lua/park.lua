-- Keep a genuine event that could not be mapped, for a person. (failures.lua stands before.)
-- KEYS     1 delivery mark  2 failed  3 failures  4 counts
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
keep_failure(ARGV[2], ARGV[3], now, KEYS[2], KEYS[3], KEYS[4])
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[4])
drop_old_failures(now - tonumber(ARGV[5]), KEYS[2], KEYS[3], KEYS[4])
return 1
