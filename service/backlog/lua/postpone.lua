-- Put a ticket back until later, with what was learnt of it.
-- KEYS     1 backlog  2 tickets  3 calls  4 callers  5 bell  6 counts
-- ARGV     1 job  2 fence  3 generation  4 ms from now  5 ticket (msgpack)
-- Returns  "postponed" | "superseded" (a newer event came meanwhile: it is due now) | "lease_lost"
-- Atomic   only the holder of the lease may move a ticket; a newer event that came meanwhile
--          stays as it is and is due at once.
local job, generation = ARGV[1], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local score = tonumber(redis.call('ZSCORE', KEYS[1], job) or '0')
local stored = redis.call('HGET', KEYS[2], job)
if score ~= tonumber(ARGV[2]) then
  local done = score % 1 == 0 and stored and string.sub(stored, 15) == ARGV[5]
  return done and 'postponed' or 'lease_lost' -- done: only the reply was lost
end
redis.call('ZREM', KEYS[3], job) -- not before: it may be the call of who has the lease now
redis.call('ZREM', KEYS[4], job)
redis.call('HINCRBY', KEYS[6], 'leased', -1)
local result = 'postponed'
local due = now + math.max(0, math.floor(tonumber(ARGV[4])))
if stored and struct.unpack('>I4', stored) ~= generation then
  due, result = now, 'superseded'
elseif stored then
  redis.call('HSET', KEYS[2], job, string.sub(stored, 1, 14) .. ARGV[5])
end
redis.call('ZADD', KEYS[1], due, job)
-- Who sleeps until what was the first to be due must hear that this one now is.
local first = due <= now or redis.call('ZRANK', KEYS[1], job) == 0
if first and redis.call('LLEN', KEYS[5]) == 0 then
  redis.call('LPUSH', KEYS[5], '1')
  redis.call('PEXPIRE', KEYS[5], 60000)
end
return result
