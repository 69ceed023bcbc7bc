-- Measure the whole namespace; every replica gets the same numbers. (Loaded after enrich/lua/lib_budget.lua and
-- backlog/lua/lib_lines.lua.)
-- KEYS     1 backlog  2 tickets  3 counts  4 stream  5 milestones  6 budget  7 calls  8 waiting
--          9 a key to write, which expires after a second  10 failed  11 forbidden  12 turns
-- ARGV     1 share of the rate limit to use
-- Returns  {tickets, due, leased, ms the longest due is overdue, ms since the oldest ticket at the head was queued,
--           entries, groups, records not delivered to the slowest group, ms since the oldest record
--           that a group has not read, ms the budget is closed, the reason, calls in flight, calls
--           available for get, for list, failed tickets, leases that have not ended among the HEAD
--           tickets due next, ms until a list call is available (0: now), number of projects and
--           environments that the token may not read, ms that Redis's clock is behind the latest time, ms
--           since a worker last claimed (-1: not known), a list with the NAMED last of the forbidden, then
--           pairs: reason, number failed for it}
-- Atomic   the numbers belong to one moment.
-- The cost does not grow with the backlog. Redis keeps the sizes (ZCARD, XLEN) and finds positions in
-- log n (ZCOUNT, ZRANGE, XRANGE). Leases and failures are counted where they change (counts). At most
-- HEAD tickets are read. Unread records are counted up to the next milestone, which holds the number
-- appended up to it. The cost grows only with the reader groups.
local HEAD = 64
local MILESTONE, STEP = 64, 8
local MAX_BYTES = 262144 -- after reading as much, Redis's own estimate of the lag is taken
local NAMED = 10
local now, _, server_now, clock_offset = now_ms()
redis.call('SET', KEYS[9], '1', 'PX', 1000)

local counts, reasons, pairs_list = {}, {}, redis.call('HGETALL', KEYS[3])
for i = 1, #pairs_list, 2 do
  counts[pairs_list[i]] = tonumber(pairs_list[i + 1])
  local reason = string.match(pairs_list[i], '^failed:(.*)$')
  if reason then
    reasons[#reasons + 1], reasons[#reasons + 2] = reason, counts[pairs_list[i]]
  end
end

-- The first ticket of each line has waited longest in it. Up to HEAD lines are visited, the first attempts first.
local function find_from(from, count)
  return redis.call('ZRANGE', KEYS[1], from, '+inf', 'BYSCORE', 'LIMIT', 0, count, 'WITHSCORES')
end
local heads, since = {}, now
local found = find_from('-inf', 1)
while found[2] and tonumber(found[2]) < 0 and #heads < HEAD do
  local score = tonumber(found[2])
  heads[#heads + 1], since = found[1], math.min(since, due_since(score))
  found = find_from(score - score % LINES.get + LINES.get, 1)
end
local upcoming = find_from(0, HEAD)
if upcoming[2] then
  since = math.min(since, tonumber(upcoming[2]))
end
for i = 1, #upcoming, 2 do
  heads[#heads + 1] = upcoming[i]
end
local oldest = now
for _, stored in ipairs(#heads > 0 and redis.call('HMGET', KEYS[2], unpack(heads)) or {}) do
  if stored and #stored >= 14 then
    local _, _, queued_at = struct.unpack('>I4I2d', stored)
    oldest = math.min(oldest, queued_at)
  end
end

local running = 0
upcoming = find_from('(' .. now, HEAD)
for i = 2, #upcoming, 2 do
  running = running + (tonumber(upcoming[i]) % 1 ~= 0 and 1 or 0)
end

local function parse_id(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local function is_before(id, other)
  local ms, seq = parse_id(id)
  local other_ms, other_seq = parse_id(other)
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

-- The slowest group is the one with the lowest position. Only its unread records are counted.
local groups = redis.call('EXISTS', KEYS[4]) == 1 and redis.call('XINFO', 'GROUPS', KEYS[4]) or {}
local slowest, unread_since = {}, server_now
for _, group in ipairs(groups) do
  local info = {}
  for i = 1, #group, 2 do
    info[group[i]] = group[i + 1]
  end
  if not slowest.position or is_before(info['last-delivered-id'], slowest.position) then
    slowest = { position = info['last-delivered-id'], lag = info['lag'] }
  end
  local first = info['pending'] > 0 and redis.call('XPENDING', KEYS[4], info['name'], '-', '+', 1)[1]
  if first then
    unread_since = math.min(unread_since, (parse_id(first[1])))
  end
end

local function size_of(entry)
  local size = 0
  for _, part in ipairs(entry[2]) do
    size = size + #part
  end
  return size
end
local function count_unread() -- the records after the position of the slowest group
  local last, count, size = slowest.position, 0, 0
  while count < MILESTONE do
    local step = count == 0 and 1 or STEP
    local entries = redis.call('XRANGE', KEYS[4], '(' .. last, '+', 'COUNT', step)
    if count == 0 and entries[1] then
      unread_since = math.min(unread_since, (parse_id(entries[1][1])))
    end
    for _, entry in ipairs(entries) do
      count, last, size = count + 1, entry[1], size + size_of(entry)
      local appended = redis.call('ZSCORE', KEYS[5], last)
      if appended then
        return count + counts.appended - tonumber(appended)
      end
    end
    if #entries < step then
      return count
    elseif size > MAX_BYTES and tonumber(slowest.lag) then
      return slowest.lag
    end
  end
  return redis.call('XLEN', KEYS[4]) -- appended by another program: at most all entries
end

local unread = slowest.position and count_unread() or 0

local budget = open_budget(KEYS[6], KEYS[7], KEYS[8], now, tonumber(ARGV[1]))
local closed = redis.call('HMGET', KEYS[6], 'closed_until', 'closed_reason')
local get = budget.calls_available('get', true)
local list, opens = budget.calls_available('list', true)
local opens_in = list < 1 and opens > now + RECHECK and math.ceil(opens - now) or 0
local claimed_at = tonumber(redis.call('HGET', KEYS[12], 'claimed_at') or nil)
return {
  redis.call('ZCARD', KEYS[1]),
  redis.call('ZCOUNT', KEYS[1], '-inf', now),
  math.max(0, counts.leased or 0),
  math.floor(now - since),
  math.floor(now - oldest),
  redis.call('XLEN', KEYS[4]),
  #groups,
  unread,
  server_now - unread_since,
  math.max(0, math.ceil(tonumber(closed[1] or '0') - now)),
  closed[2] or '',
  redis.call('ZCARD', KEYS[7]),
  math.max(0, get),
  math.max(0, list),
  redis.call('ZCARD', KEYS[10]),
  running,
  opens_in,
  redis.call('ZCOUNT', KEYS[11], '(' .. now, '+inf'),
  clock_offset,
  claimed_at and math.max(0, now - claimed_at) or -1,
  redis.call('ZREVRANGEBYSCORE', KEYS[11], '+inf', '(' .. now, 'LIMIT', 0, NAMED),
  unpack(reasons),
}
