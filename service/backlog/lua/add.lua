-- Remember one delivery and the ticket it asks for. (failures.lua stands before.)
-- KEYS     1 delivery mark  2 backlog  3 tickets  4 failed  5 failures  6 bell  7 budget
--          8 counts
-- ARGV     1 token of this act  2 job  3 ticket (msgpack)  4 life of the mark (ms)  5 backlog limit
-- Returns  {"queued", job} | {"duplicate", job} | {"full", seconds to wait}
-- Atomic   a mark without its ticket would swallow the sender's retry for ever;
--          a ticket without its mark would be fetched twice.
local token, job, ticket, life = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local mark, failed = redis.call('GET', KEYS[1]), nil
if mark then
  local earlier = string.sub(mark, #token + 2)
  if string.sub(mark, 1, #token) == token then
    redis.call('PEXPIRE', KEYS[1], life) -- a write, so that a durable group covers the first too
    return { 'queued', earlier } -- this very act was done before; only its reply was lost
  end
  if not redis.call('ZSCORE', KEYS[4], earlier) then
    redis.call('PEXPIRE', KEYS[1], life) -- likewise
    return { 'duplicate', earlier }
  end
  failed = earlier -- given up before: a redelivery takes it up again
end

local stored = redis.call('HGET', KEYS[3], job)
if not stored and redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[5]) then
  local rate = tonumber(redis.call('HGET', KEYS[7], 'settled_per_s') or '0')
  return { 'full', math.ceil(redis.call('ZCARD', KEYS[2]) / math.max(rate, 0.1)) }
end

local generation = 1
if stored and #stored >= 4 then
  generation = struct.unpack('>I4', stored) % 4294967295 + 1
end
redis.call('HSET', KEYS[3], job, struct.pack('>I4I2d', generation, 0, now) .. ticket)
local score = redis.call('ZSCORE', KEYS[2], job)
if not score or tonumber(score) % 1 == 0 then -- a part of a millisecond marks a lease: it stays
  redis.call('ZADD', KEYS[2], now, job)
end
for _, name in ipairs({ job, failed }) do
  drop_failure(name, KEYS[4], KEYS[5], KEYS[8])
end
redis.call('SET', KEYS[1], token .. ' ' .. job, 'PX', life)
if redis.call('LLEN', KEYS[6]) == 0 then
  redis.call('LPUSH', KEYS[6], '1')
  redis.call('PEXPIRE', KEYS[6], 60000)
end
return { 'queued', job }
