-- Keep the leases of work that takes long.
-- KEYS     1 backlog
-- ARGV     1 extension (ms)  then pairs: job, fence in hand
-- Returns  one element a pair: the new fence, or "" where the lease is lost
-- Atomic   read and write of each score; the new fence follows from the old one alone, so that
--          the same act sent twice after a lost reply gives the same answer.
local extension, fences = tonumber(ARGV[1]), {}
for i = 2, #ARGV, 2 do
  local job, held = ARGV[i], tonumber(ARGV[i + 1])
  local score = tonumber(redis.call('ZSCORE', KEYS[1], job) or '0')
  local longer = held + extension
  if score == held then
    redis.call('ZADD', KEYS[1], longer, job)
  end
  fences[#fences + 1] = (score == held or score == longer) and string.format('%.10f', longer) or ''
end
return fences
