-- Delete old records from the stream, except those that an active reader group has still to read.
-- KEYS     1 stream  2 counts  3 milestones  4 reader groups
-- ARGV     1 maximum age of records (ms)  2 maximum records, 0 for no maximum
--          3 time after which an unseen group counts as idle (ms)
-- Returns  {deleted by age, deleted by the maximum, 1 if more are to be deleted: call again, or 0,
--          then pairs for idle groups: group, ms since it was active}
-- Atomic   the slowest group must not change between reading its position and trimming.
-- Flags    allow-oom: it frees memory.
-- One call deletes at most SLICE records and reads the consumers of some groups, so that it blocks Redis
-- briefly. The caller repeats it. A group keeps its records until its consumers have been read.
-- Reader groups are stored as "when it was active (ms), when its consumers were read (ms), its position".
local SLICE = 500
local CONSUMERS = 300 -- after as many groups and consumers no further group is read
local READ_AGAIN = 10000 -- ms after which the consumers of a group are read again
local NODE = 100 -- the most records that Redis keeps in one node of a stream (stream-node-max-entries)
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[4])
  return { 0, 0, 0 }
end
local now, _, server_now = now_ms()
local oldest = math.max(0, server_now - tonumber(ARGV[1]))
local idle_timeout, active_times, idle_groups = tonumber(ARGV[3]), {}, {}
local first_kept, consumers_read, is_left = { oldest, 0 }, 0, false

local function is_before(a, b)
  return a[1] < b[1] or (a[1] == b[1] and a[2] < b[2])
end
local function parse_id(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return { tonumber(ms), tonumber(seq) }
end

local function to_table(pairs_list)
  local fields = {}
  for i = 1, #pairs_list, 2 do
    fields[pairs_list[i]] = pairs_list[i + 1]
  end
  return fields
end

local stored = to_table(redis.call('HGETALL', KEYS[4]))

-- A group is active while a consumer reads. A group without consumers was active when trim first saw it.
local function read_active_at(name, active_at)
  for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], name)) do
    active_at = math.max(active_at, now - to_table(consumer)['idle'])
  end
  return active_at == 0 and now or active_at
end

-- Return when a group was last active, and whether that is known.
local function last_active(info)
  local name, position = info['name'], info['last-delivered-id']
  local active_at, read_at, stored_position = string.match(stored[name] or '', '^(%d+) (%d+) (%S+)$')
  active_at, read_at = tonumber(active_at or '0'), tonumber(read_at or '0')
  local is_idle, was_idle = now - active_at >= idle_timeout, read_at - active_at >= idle_timeout
  local is_known = now - read_at < math.min(READ_AGAIN, idle_timeout / 2) and is_idle == was_idle
  if stored_position and stored_position ~= position then -- it has read since
    active_at, read_at, is_known = now, now, true
  elseif not is_known and consumers_read < CONSUMERS then
    consumers_read = consumers_read + 1 + info['consumers']
    active_at, read_at, is_known = read_active_at(name, active_at), now, true
  end
  if is_known or stored_position then
    active_times[#active_times + 1] = name
    active_times[#active_times + 1] = string.format('%.0f %.0f %s', active_at, read_at, position)
  end
  return active_at, is_known
end

local function find_first_unread(info)
  local first = info['pending'] > 0 and redis.call('XPENDING', KEYS[1], info['name'], '-', '+', 1)[1]
  if first then
    return parse_id(first[1])
  end
  local after = parse_id(info['last-delivered-id'])
  return { after[1], after[2] + 1 }
end

for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local info = to_table(group)
  local active_at, is_known = last_active(info)
  local first_unread = find_first_unread(info)
  is_left = is_left or not is_known
  if is_known and now - active_at >= idle_timeout then
    idle_groups[#idle_groups + 1] = info['name']
    idle_groups[#idle_groups + 1] = now - active_at
  elseif is_before(first_unread, first_kept) then
    first_kept = first_unread
  end
end

redis.call('DEL', KEYS[4]) -- groups that no longer exist are dropped
if #active_times > 0 then
  redis.call('HSET', KEYS[4], unpack(active_times))
  redis.call('PEXPIRE', KEYS[4], string.format('%.0f', 2 * idle_timeout + 3600000))
end

-- Whole nodes first, as many as the limit allows. If the limit did not stop it, less than a node is left.
local function trim_slice(strategy, threshold, limit)
  if limit < NODE then
    return 0, true
  end
  local deleted = redis.call('XTRIM', KEYS[1], strategy, '~', threshold, 'LIMIT', limit)
  if deleted > limit - NODE then
    return deleted, true
  end
  return deleted + redis.call('XTRIM', KEYS[1], strategy, '=', threshold), false
end

local first_id = string.format('%.0f-%.0f', first_kept[1], first_kept[2])
local expired, has_more = trim_slice('MINID', first_id, SLICE)
local maximum, over_limit = tonumber(ARGV[2]), 0
if maximum > 0 and not has_more and not is_left then -- what has expired counts as expired
  over_limit, has_more = trim_slice('MAXLEN', maximum, SLICE - expired)
end
local deleted = tonumber(redis.call('HGET', KEYS[2], 'appended') or '0') - redis.call('XLEN', KEYS[1])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', deleted)
return { expired, over_limit, (has_more or is_left) and 1 or 0, unpack(idle_groups) }
