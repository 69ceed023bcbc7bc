-- Drop what is old from the output, but nothing that a living reader group has still to read.
-- KEYS     1 stream  2 counts  3 milestones  4 readers: group -> when it was last known to live (ms)
-- ARGV     1 how long entries are kept (ms)  2 hard cap on entries, 0 for none
--          3 how long a group may not be seen before it is taken for dead (ms)
-- Returns  {dropped for their age, dropped by the cap, group, ms since it was seen, ... of the dead}
-- Atomic   the slowest group must not change between looking and trimming.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[4])
  return { 0, 0 }
end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local oldest = math.max(0, now - tonumber(ARGV[1]))
local patience, known, dead = tonumber(ARGV[3]), {}, {}
local keep = { oldest, 0 }

local function is_before(one, other)
  return one[1] < other[1] or (one[1] == other[1] and one[2] < other[2])
end
local function parse(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return { tonumber(ms), tonumber(seq) }
end

local function read_pairs(flat)
  local told = {}
  for i = 1, #flat, 2 do
    told[flat[i]] = flat[i + 1]
  end
  return told
end

local stored = read_pairs(redis.call('HGETALL', KEYS[4]))

-- a group lives as long as a consumer asks; one without consumers from when it was first found so
local function last_seen(name)
  local seen = tonumber(stored[name] or '0')
  local consumers = redis.call('XINFO', 'CONSUMERS', KEYS[1], name)
  for _, consumer in ipairs(consumers) do
    seen = math.max(seen, now - read_pairs(consumer)['idle'])
  end
  if seen == 0 then
    seen = now
  end
  return seen
end

for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local told = read_pairs(group)
  local seen = last_seen(told['name'])
  known[#known + 1] = told['name']
  known[#known + 1] = string.format('%.0f', seen)
  local unread = parse(told['last-delivered-id'])
  local pending = redis.call('XPENDING', KEYS[1], told['name'])
  if pending[1] > 0 then
    unread = parse(pending[2])
  else
    unread[2] = unread[2] + 1
  end
  if now - seen >= patience then
    dead[#dead + 1] = told['name']
    dead[#dead + 1] = now - seen
  elseif is_before(unread, keep) then
    keep = unread
  end
end

redis.call('DEL', KEYS[4]) -- groups that were removed are forgotten
if #known > 0 then
  redis.call('HSET', KEYS[4], unpack(known))
  redis.call('PEXPIRE', KEYS[4], string.format('%.0f', 2 * patience + 3600000))
end

local dropped = redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', keep[1], keep[2]))
local cap, cut = tonumber(ARGV[2]), 0
if cap > 0 then
  cut = redis.call('XTRIM', KEYS[1], 'MAXLEN', cap)
end
local gone = tonumber(redis.call('HGET', KEYS[2], 'appended') or '0') - redis.call('XLEN', KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', gone)
return { dropped, cut, unpack(dead) }
