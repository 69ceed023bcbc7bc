-- Extend leases while their work goes on.
-- KEYS     1 backlog
-- ARGV     1 extension (ms)  then pairs: job, its current fence
-- Returns  one element per pair: the new fence, or "" if the lease is lost
-- Atomic   each score is compared and replaced at once. The new fence follows from the old one alone,
--          so the same call repeated after a lost reply returns the same fences.
-- Flags    allow-oom: it replaces scores, and a lease must not end because memory is full.
local extension, fences = tonumber(ARGV[1]), {}
for i = 2, #ARGV, 2 do
  local job, fence = ARGV[i], tonumber(ARGV[i + 1])
  local score = tonumber(redis.call('ZSCORE', KEYS[1], job) or '0')
  local extended = fence + extension
  if score == fence then
    redis.call('ZADD', KEYS[1], extended, job)
  end
  fences[#fences + 1] = (score == fence or score == extended) and string.format('%.10f', extended) or ''
end
return fences
