-- Forget what was given up or set aside, as a person asks for.
-- KEYS     1 failed  2 failures  3 mark of this act
-- ARGV     pairs: job, SHA-1 of its failure as it was read ("" where nothing is kept of it)
-- Returns  one element a pair: "dropped" | "gone" (by then it was no more, or had failed anew)
-- Atomic   only what the person saw is dropped, never what failed meanwhile.
local LIFE = 60000 -- ms for which this act is known again, should its reply be lost
local done = redis.call('GET', KEYS[3])
if done then
  redis.call('PEXPIRE', KEYS[3], LIFE) -- a write, so that a durable group covers the first too
  return cmsgpack.unpack(done)
end
local fates = {}
for i = 1, #ARGV, 2 do
  local job, kept = ARGV[i], redis.call('HGET', KEYS[2], ARGV[i])
  local digest = kept and redis.sha1hex(kept) or ''
  local fate = 'gone'
  if digest == ARGV[i + 1] and redis.call('ZREM', KEYS[1], job) == 1 then
    redis.call('HDEL', KEYS[2], job)
    fate = 'dropped'
  end
  fates[#fates + 1] = fate
end
redis.call('SET', KEYS[3], cmsgpack.pack(fates), 'PX', LIFE)
return fates
