-- Read the current state: the next tickets, the newest records and the last failures.
-- KEYS     1 backlog  2 tickets  3 failed  4 stream  5 budget  6 counts
-- ARGV     1 maximum tickets  2 maximum failures  3 maximum records  4 the last record that the caller
--          has, or "-"  5 maximum size of a field that is returned whole (bytes)
-- Returns  {now (ms), records ever appended, failed, {name, value, ..} of the budget,
--           {job, score, ticket, ..} of the next tickets, {job, score, ..} of the last failures,
--           {position, fields, ..} of the records after the known one, the newest first}
-- Atomic   all values belong to one moment.
-- Flags    no-writes
-- The cost does not grow with the backlog: everything is limited to what is shown.
local now = now_ms()

local head, next_tickets = redis.call('ZRANGE', KEYS[1], 0, ARGV[1] - 1, 'WITHSCORES'), {}
for i = 1, #head, 2 do
  local n = #next_tickets
  next_tickets[n + 1], next_tickets[n + 2] = head[i], head[i + 1]
  next_tickets[n + 3] = redis.call('HGET', KEYS[2], head[i]) or ''
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
  next_tickets,
  redis.call('ZREVRANGE', KEYS[3], 0, ARGV[2] - 1, 'WITHSCORES'),
  records,
}
