-- Move a ticket to the failed ones, for a person. (failures.lua and ending.lua stand before.)
-- KEYS     1 backlog  2 tickets  3 failed  4 failures  5 calls  6 callers  7 bell
--          8 counts
-- ARGV     1 job  2 fence  3 generation  4 failure (msgpack)  5 how long failures are kept (ms)
-- Returns  "failed" | "superseded" (a newer event came meanwhile: it is due now) | "lease_lost"
-- Atomic   a ticket is in the backlog or among the failed, never in both and never in neither.
local job = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], job)
if not score and redis.call('HGET', KEYS[4], job) == ARGV[4] then
  redis.call('HSET', KEYS[4], job, ARGV[4]) -- a write, so that a durable group covers the first too
  return 'failed' -- this very act was done before; only its reply was lost
elseif tonumber(score or '0') ~= tonumber(ARGV[2]) then
  return 'lease_lost'
end
redis.call('ZREM', KEYS[5], job) -- not before: it may be the call of who has the lease now
redis.call('ZREM', KEYS[6], job)
redis.call('HINCRBY', KEYS[8], 'leased', -1)
if not end_ticket({ backlog = KEYS[1], tickets = KEYS[2], bell = KEYS[7] }, job, ARGV[3], now) then
  return 'superseded'
end
keep_failure(job, ARGV[4], now, KEYS[3], KEYS[4], KEYS[8])
drop_old_failures(now - tonumber(ARGV[5]), KEYS[3], KEYS[4], KEYS[8])
return 'failed'
