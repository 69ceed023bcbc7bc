-- Look through one page of what waits, or of what failed, for what a person seeks.
-- KEYS     1 backlog or failed  2 what is kept of each
-- ARGV     1 rank of the first, 2 of the last  3 the words, in small letters  4 the same as a part of
--          a job's name (percent-encoded)
-- Returns  {now (ms), how many were looked at, then threes: job, score, what is kept}
-- Atomic   it writes nothing; a page is short, so that nobody waits for it.
local page = redis.call('ZREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES')
local clock = redis.call('TIME')
local found = { clock[1] * 1000 + math.floor(clock[2] / 1000), #page / 2 }
for i = 1, #page, 2 do
  local job, name = page[i], string.lower(page[i])
  local kept = redis.call('HGET', KEYS[2], job) or ''
  if
    string.find(name, ARGV[4], 1, true)
    or string.find(name, ARGV[3], 1, true)
    or string.find(string.lower(kept), ARGV[3], 1, true)
  then
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = job, page[i + 1], kept
  end
end
return found
