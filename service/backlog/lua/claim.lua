-- Lease the tickets that are due, as many as calls are available. (Loaded after enrich/lua/lib_budget.lua.)
-- KEYS     1 backlog  2 tickets  3 budget  4 calls  5 waiting  6 wakeup  7 reply of this call
--          8 counts
-- ARGV     1 maximum tickets with a call of their own  2 lease (ms)  3 TTL of a call (ms)
--          4 share of the rate limit to use  5 maximum followers: tickets that share the call of one of these
-- Returns  {now, ms to sleep, then fours: job, fence, ticket, its leader: the job whose call it shares, or ""}
-- Atomic   two workers never lease the same ticket, and no ticket is leased without a call.
-- A score is a time in ms. A whole number is when the ticket is due. A number with a fraction is a lease
-- and says when the lease ends. A lease that is due again means that its worker died.
--
-- A batch is the tickets that one list call can serve: those to be found in one project and environment.
-- While more tickets are due than calls are available, tickets with a known deployment id join a batch too.
local EXTRA_SCANNED = 100 -- jobs scanned beyond the maximum: a route without calls must not block the other
local MIN_BATCH = 3 -- tickets with an id that justify a list call
local MAX_SHARED_CRASHES = 3 -- a ticket with this many crashes is leased alone, so that it harms no others

local limit, lease_ms, call_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local followers_free = tonumber(ARGV[5])
local now, microseconds = now_ms()
-- The fraction holds the microseconds: leases of one ticket that begin in the same millisecond differ.
local fence = now + lease_ms + (microseconds + 1) / 1024
local reply = { now, 0 }

local function add_to_reply(job, stored, leader)
  local n = #reply
  reply[n + 1], reply[n + 2] = job, string.format('%.10f', fence)
  reply[n + 3], reply[n + 4] = stored, leader
end

local earlier = redis.call('GET', KEYS[7])
if earlier then -- this call was executed before and only its reply was lost
  local claimed = cmsgpack.unpack(earlier)
  fence = tonumber(table.remove(claimed))
  for i = 1, #claimed, 2 do
    if tonumber(redis.call('ZSCORE', KEYS[1], claimed[i]) or '0') == fence then
      add_to_reply(claimed[i], redis.call('HGET', KEYS[2], claimed[i]) or '', claimed[i + 1])
    end
  end
  return reply
end

local function read_due(offset, count)
  return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', offset, count)
end
local function batch_of_job(job) -- "find:<project>/<environment>/", or nil for other jobs
  return string.match(job, '^find:[^/]*/[^/]*/')
end

local budget = open_budget(KEYS[3], KEYS[4], KEYS[5], now, tonumber(ARGV[4]), call_ttl)
local available = {} -- by route; emptied whenever a call is acquired or dropped
local function calls_available(route)
  local known = available[route]
  if not known then
    known = { budget.calls_available(route) }
    available[route] = known
  end
  return known[1], known[2]
end

-- The ticket of a dead worker may be behind those scanned. Its call must not block all workers.
-- A list that continues is a call of its own, named after the job for which it was started.
local function drop_dead_calls()
  for _, call in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    local job = string.match(call, '^list for (.*)$') or call
    local score = tonumber(redis.call('ZSCORE', KEYS[1], job) or '0')
    if score % 1 ~= 0 and score <= now then
      budget.drop_call(call)
      available = {}
    end
  end
end
if calls_available('get') < 1 or calls_available('list') < 1 then
  drop_dead_calls()
end

local due = read_due(0, limit + EXTRA_SCANNED)
local may_list = followers_free > 0 and calls_available('list') >= 1
local is_scarce = may_list and #due / 2 > calls_available('get')
local is_shared = is_scarce
for i = 1, may_list and #due or 0, 2 do
  is_shared = is_shared or batch_of_job(due[i]) ~= nil
end
if is_shared and #due / 2 == limit + EXTRA_SCANNED then
  for _, part in ipairs(read_due(#due / 2, followers_free)) do
    due[#due + 1] = part
  end
end

-- The batch of each ticket with an id, read from the ticket, and the number of tickets per batch.
local batch_by_job, batch_sizes = {}, {}
local function batch_of_ticket(stored)
  -- The header and the array's head are skipped. cmsgpack does not support binary data, so only the
  -- fields before it are decoded.
  local start = string.byte(stored, 15) == 220 and 17 or 15
  local ok, _, _, _, _, project, environment, application =
    pcall(cmsgpack.unpack_limit, stored, 6, start)
  local has_scope = type(project) == 'string' and type(environment) == 'string'
  if ok and has_scope and type(application) == 'string' then
    return 'id:' .. project .. '/' .. environment .. '/'
  end
  return nil
end
for i = 1, is_scarce and #due or 0, 2 do
  if string.sub(due[i], 1, 3) == 'id:' then
    local batch = batch_of_ticket(redis.call('HGET', KEYS[2], due[i]) or '')
    if batch then
      batch_by_job[due[i]] = batch
      batch_sizes[batch] = (batch_sizes[batch] or 0) + 1
    end
  end
end
local function find_batch(job, crashes)
  if not may_list or crashes >= MAX_SHARED_CRASHES then
    return nil
  end
  local batch = batch_by_job[job] or batch_of_job(job)
  return (not batch_sizes[batch] or batch_sizes[batch] >= MIN_BATCH) and batch or nil
end

local leader_by_batch, claimed, scores, calls_acquired, sleep = {}, {}, {}, 0, nil
local crashed_tickets = {} -- job, its ticket with one crash more
local leased_change = 0 -- change of the count "leased"; the lease of a dead worker is counted already
for i = 1, #due, 2 do
  local job, has_crashed = due[i], tonumber(due[i + 1]) % 1 ~= 0
  if has_crashed then
    budget.drop_call(job) -- its worker died, and the calls that the worker had in flight are over
    budget.drop_call('list for ' .. job)
    available = {}
  end
  local stored = redis.call('HGET', KEYS[2], job)
  local crashes = 0
  if has_crashed and stored and #stored >= 14 then
    local generation, before = struct.unpack('>I4I2', stored)
    crashes = math.min(before + 1, 65535)
    stored = struct.pack('>I4I2', generation, crashes) .. string.sub(stored, 7)
  end
  local batch = stored and find_batch(job, crashes)
  local leader = batch and leader_by_batch[batch]
  local is_claimed = false
  if not stored then
    redis.call('ZREM', KEYS[1], job) -- a job without a ticket: nothing is known about it
    leased_change = leased_change - (has_crashed and 1 or 0)
  elseif leader then
    if followers_free == 0 then
      sleep = 0
      break
    end
    is_claimed, followers_free = true, followers_free - 1
  else
    local has_id = string.sub(job, 1, 3) == 'id:'
    local free, opens = calls_available((batch or not has_id) and 'list' or 'get')
    if free < 1 and batch and has_id then
      batch = nil
      free, opens = calls_available('get')
    end
    if free < 1 then
      sleep = math.min(sleep or math.huge, opens - now)
    elseif calls_acquired == limit then
      sleep = 0
      if next(leader_by_batch) == nil then
        break
      end
    else
      is_claimed, calls_acquired, available = true, calls_acquired + 1, {}
      budget.acquire(job, now + call_ttl)
      if batch then
        leader_by_batch[batch] = job
      end
    end
  end
  if is_claimed then
    if has_crashed then
      crashed_tickets[#crashed_tickets + 1], crashed_tickets[#crashed_tickets + 2] = job, stored
    else
      leased_change = leased_change + 1
    end
    scores[#scores + 1], scores[#scores + 2] = fence, job
    claimed[#claimed + 1], claimed[#claimed + 2] = job, leader or ''
    add_to_reply(job, stored, leader or '')
  end
end

if sleep == 0 then
  wake(KEYS[6]) -- more is due than one worker may take: another worker continues
end
if leased_change ~= 0 then
  redis.call('HINCRBY', KEYS[8], 'leased', leased_change)
end
-- The leases are the last write: a lease whose claim fails would end as that of a dead worker.
if calls_acquired > 0 then
  claimed[#claimed + 1] = string.format('%.10f', fence)
  redis.call('SET', KEYS[7], cmsgpack.pack(claimed), 'PX', lease_ms)
  if crashed_tickets[1] then
    redis.call('HSET', KEYS[2], unpack(crashed_tickets))
  end
  redis.call('ZADD', KEYS[1], unpack(scores))
end
if not sleep then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  sleep = first[2] and math.max(0, tonumber(first[2]) - now) or -1
end
reply[2] = math.ceil(sleep)
return reply
