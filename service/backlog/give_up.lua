-- Move a ticket to the failed ones, for a person. (failures.lua stands before.)
-- KEYS     1 backlog  2 tickets  3 failed  4 failures  5 calls  6 callers  7 bell
--          8 counts
-- ARGV     1 job  2 fence  3 generation  4 failure (msgpack)  5 how long failures are kept (ms)
-- Returns  "given up" | "again" (a newer event came meanwhile: it is due now) | "lost"
-- Atomic   a ticket is in the backlog or among the failed, never in both and never in neither.
local job = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], job)
if not score and redis.call('HGET', KEYS[4], job) == ARGV[4] then
  redis.call('HSET', KEYS[4], job, ARGV[4]) -- a write, so that a durable group covers the first too
  return 'given up' -- this very act was done before; only its reply was lost
elseif tonumber(score or '0') ~= tonumber(ARGV[2]) then
  return 'lost'
end
redis.call('ZREM', KEYS[5], job) -- not before: it may be the call of who has the lease now
redis.call('ZREM', KEYS[6], job)
redis.call('HINCRBY', KEYS[8], 'leased', -1)
local stored = redis.call('HGET', KEYS[2], job)
if stored and #stored >= 4 and struct.unpack('>I4', stored) ~= tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[1], now, job)
  if redis.call('LLEN', KEYS[7]) == 0 then
    redis.call('LPUSH', KEYS[7], '1')
    redis.call('PEXPIRE', KEYS[7], 60000)
  end
  return 'again'
end
redis.call('ZREM', KEYS[1], job)
redis.call('HDEL', KEYS[2], job)
keep_failure(job, ARGV[4], now, KEYS[3], KEYS[4], KEYS[8])
drop_old_failures(now - tonumber(ARGV[5]), KEYS[3], KEYS[4], KEYS[8])
return 'given up'
