-- Search one page of the backlog or of the failed tickets for a text.
-- KEYS     1 backlog or failed  2 tickets or failed data
-- ARGV     1 rank of the first  2 rank of the last  3 the text, its ASCII letters in lower case  4 the
--          text as it appears in a job (percent-encoded, lower case)
-- Returns  {now (ms), number searched, then threes: job, score, its data}
-- Atomic   it only reads; a page is short, so that it blocks Redis briefly.
-- Flags    no-writes
local page = redis.call('ZREVRANGE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES')
local now = now_ms()
local found = { now, #page / 2 }
for i = 1, #page, 2 do
  local job, lower_job = page[i], string.lower(page[i])
  local data = redis.call('HGET', KEYS[2], job) or ''
  if
    string.find(lower_job, ARGV[4], 1, true)
    or string.find(lower_job, ARGV[3], 1, true)
    or string.find(string.lower(data), ARGV[3], 1, true)
  then
    local n = #found
    found[n + 1], found[n + 2], found[n + 3] = job, page[i + 1], data
  end
end
return found
