-- Drop what is old from the output, but nothing that a reader group has still to read.
-- KEYS     1 stream  2 counts  3 milestones
-- ARGV     1 how long entries are kept (ms)  2 hard cap on entries, 0 for none
-- Returns  how many entries were dropped
-- Atomic   the slowest group must not change between looking and trimming.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local clock = redis.call('TIME')
local oldest = math.max(0, clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[1]))
local keep = { oldest, 0 }

local function is_before(one, other)
  return one[1] < other[1] or (one[1] == other[1] and one[2] < other[2])
end
local function parse(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return { tonumber(ms), tonumber(seq) }
end

for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local told = {}
  for i = 1, #group, 2 do
    told[group[i]] = group[i + 1]
  end
  local unread = parse(told['last-delivered-id'])
  local pending = redis.call('XPENDING', KEYS[1], told['name'])
  if pending[1] > 0 then
    unread = parse(pending[2])
  else
    unread[2] = unread[2] + 1
  end
  if is_before(unread, keep) then
    keep = unread
  end
end

local dropped = redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', keep[1], keep[2]))
local cap = tonumber(ARGV[2])
if cap > 0 then
  dropped = dropped + redis.call('XTRIM', KEYS[1], 'MAXLEN', cap)
end
local gone = tonumber(redis.call('HGET', KEYS[2], 'appended') or '0') - redis.call('XLEN', KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', gone)
return dropped
