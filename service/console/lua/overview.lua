-- See what happens right now: who is next, what came out and what failed.
-- KEYS     1 backlog  2 tickets  3 failed  4 stream  5 budget  6 counts
-- ARGV     1 how many tickets, 2 failures and 3 records to show at most  4 the last record that is
--          known already, or "-"  5 the largest record (bytes) that is given whole
-- Returns  {now (ms), records ever appended, failed, {name, value, ..} of the budget,
--           {job, score, ticket, ..} of those next, {job, score, ..} of the last failures,
--           {position, fields, ..} of the records behind the known one, the newest first}
-- Atomic   what is seen belongs to one moment.
-- Costs the same however much waits: all is cut to what is shown.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local head, next_up = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES'), {}
for i = 1, #head, 2 do
  local n = #next_up
  next_up[n + 1], next_up[n + 2] = head[i], head[i + 1]
  next_up[n + 3] = redis.call('HGET', KEYS[2], head[i]) or ''
end

local after = ARGV[4] == '-' and '-' or '(' .. ARGV[4]
local records = {}
for _, entry in ipairs(redis.call('XREVRANGE', KEYS[4], '+', after, 'COUNT', ARGV[3])) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    if #fields[i + 1] > tonumber(ARGV[5]) then
      fields[i + 1] = ''
    end
  end
  records[#records + 1], records[#records + 2] = entry[1], fields
end

return {
  now,
  tonumber(redis.call('HGET', KEYS[6], 'appended') or '0'),
  redis.call('ZCARD', KEYS[3]),
  redis.call('HGETALL', KEYS[5]),
  next_up,
  redis.call('ZREVRANGE', KEYS[3], 0, ARGV[2] - 1, 'WITHSCORES'),
  records,
}
