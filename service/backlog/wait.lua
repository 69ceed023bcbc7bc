-- Put a ticket back until later, with what was learnt of it.
-- KEYS     1 backlog  2 tickets  3 calls  4 callers  5 bell
-- ARGV     1 job  2 fence  3 generation  4 ms from now  5 ticket (msgpack)
-- Returns  "waiting" | "lost"
-- Atomic   only the holder of the lease may move a ticket; a newer event that came meanwhile
--          stays as it is and is due at once.
local job, generation = ARGV[1], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREM', KEYS[3], job)
redis.call('ZREM', KEYS[4], job)
if tonumber(redis.call('ZSCORE', KEYS[1], job) or '0') ~= tonumber(ARGV[2]) then
  return 'lost'
end
local stored = redis.call('HGET', KEYS[2], job)
local due = now + math.max(0, math.floor(tonumber(ARGV[4])))
if stored and struct.unpack('>I4', stored) ~= generation then
  due = now
elseif stored then
  redis.call('HSET', KEYS[2], job, string.sub(stored, 1, 14) .. ARGV[5])
end
redis.call('ZADD', KEYS[1], due, job)
if due <= now and redis.call('LLEN', KEYS[5]) == 0 then
  redis.call('LPUSH', KEYS[5], '1')
  redis.call('PEXPIRE', KEYS[5], 60000)
end
return 'waiting'
