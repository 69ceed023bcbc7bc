-- Keep how far a round has come, and let go of it.
-- KEYS     1 round
-- ARGV     1 token of who holds it  2 new checkpoint or "" to leave it  3 "ended" | "released" | "continue"
-- Returns  1, or 0: the round is another's by now, and nothing was changed
-- Atomic   only who holds the round moves its checkpoint.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'checkpoint', ARGV[2])
end
if ARGV[3] == 'ended' then
  redis.call('HSET', KEYS[1], 'ran', now)
end
if ARGV[3] ~= 'continue' then
  redis.call('HDEL', KEYS[1], 'holder', 'until')
end
return 1
