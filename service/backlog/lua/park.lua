-- Keep a genuine event that could not be mapped, for a person. (Loaded after lib_failures.lua.)
-- KEYS     1 delivery mark  2 failed  3 failed data  4 counts  5 failed raw
-- ARGV     1 token of this call  2 job  3 failure record (msgpack)  4 TTL of the mark (ms)
--          5 body (compressed)
-- Returns  1 if the event is kept now, 0 if it was kept before
-- Atomic   a mark without its event would drop every retry of the sender.
local keys = { failed = KEYS[2], failed_data = KEYS[3], counts = KEYS[4], failed_raw = KEYS[5] }
local now = now_ms()
local mark = redis.call('GET', KEYS[1])
if mark then
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  return string.sub(mark, 1, #ARGV[1]) == ARGV[1] and 1 or 0
end
store_failure(keys, ARGV[2], ARGV[3], ARGV[5], now)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. ARGV[2], 'PX', ARGV[4])
return 1
