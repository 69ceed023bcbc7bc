-- Forget what was given up or set aside, as a person asks for. (failures.lua stands before.)
-- KEYS     1 failed  2 failures  3 mark of this act  4 counts
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
  if digest == ARGV[i + 1] and redis.call('ZSCORE', KEYS[1], job) then
    drop_failure(job, KEYS[1], KEYS[2], KEYS[4])
    fate = 'dropped'
  end
  fates[#fates + 1] = fate
end
redis.call('SET', KEYS[3], cmsgpack.pack(fates), 'PX', LIFE)
return fates
