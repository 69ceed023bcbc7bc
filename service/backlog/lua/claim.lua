-- Lease the tickets whose turn it is, as many as calls are available.
-- (Loaded after enrich/lua/lib_budget.lua, lib_lines.lua and lib_hand_over.lua.)
-- KEYS     1 backlog  2 tickets  3 budget  4 calls  5 waiting  6 wakeup  7 reply of this call
--          8 counts  9 turns  10 waiting worker
-- ARGV     1 maximum tickets with a call of their own  2 lease (ms)  3 TTL of a call (ms)
--          4 share of the rate limit to use  5 maximum followers: tickets that share the call of one of these
--          6 job whose followers did not all fit into the last claim, or ""  7 its fence
--          8 "1" if the worker waits for a wakeup when it could take more than is due, else "0"
-- Returns  {now, ms to sleep, job whose followers do not all fit, or "", then fours: job, fence, ticket,
--          its leader: the job whose call it shares, or ""}
-- Atomic   two workers never lease the same ticket, and no ticket is leased without a call.
-- A score is a time in ms, or a place in a line: see lib_lines.lua. A lease that is due again means that
-- its worker died. A due ticket enters its line at the next claim; new tickets stand in a line at once.
--
-- Each call goes to the next project and environment, in a circle: first the first attempts, then the
-- retries, but every RETRY_EVERY-th call goes to a retry if one is due. KEYS[9] holds who had the last turns,
-- and when a worker last claimed, to the second. Readiness looks at that time: a live worker claims at least once
-- within a lease.
--
-- A batch is the tickets that one list call can serve: those to be found in one project and environment.
-- While calls are scarce, tickets with a known deployment id join a batch too. Most of them need a call of
-- their own after all if they are not among the newest of the list, so a worker must not hold many of them.
local RETRY_EVERY = 10 -- calls of which one goes to a retry while first attempts are due
local MAX_ENTERED = 250 -- tickets that enter their lines in one claim
local MAX_SKIPPED = 100 -- scopes visited beyond the maximum: a route without calls must not block the other
local SKIP_PAUSE = 20 -- ms after which to go on looking when all of these had to be skipped
local MIN_BATCH = 3 -- tickets with an id that justify a list call
-- Tickets whose worker died with them share calls with each other only, in smaller and smaller batches, and at last
-- none. So one that kills its workers is found and harms few, and the others still share their calls.
local MAX_BATCHES = { 64, 16, 4 } -- tickets in a batch by the number of their crashes
local TURNS_TTL = 86400000
local CLAIMED_STEP = 1000 -- ms
local WAITING_TTL = 10000 -- ms for which a worker counts as waiting; it claims again every 4 s

local limit, lease_ms, call_ttl = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local followers_free = tonumber(ARGV[5])
local now, microseconds = now_ms()
local fence, fence_text = new_fence(now, microseconds, lease_ms)
local reply = { now, 0, '' }

local function add_to_reply(job, stored, leader)
  local n = #reply
  reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = job, fence_text, stored, leader
end

local earlier = redis.call('GET', KEYS[7])
if earlier then -- this call was executed before and only its reply was lost
  local claimed = cmsgpack.unpack(earlier)
  fence_text = table.remove(claimed)
  for i = 1, #claimed, 2 do
    if tonumber(redis.call('ZSCORE', KEYS[1], claimed[i]) or '0') == tonumber(fence_text) then
      add_to_reply(claimed[i], redis.call('HGET', KEYS[2], claimed[i]) or '', claimed[i + 1])
    end
  end
  return reply
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
local function drop_calls(job) -- its worker died, and the calls that the worker had in flight are over
  budget.drop_call(job)
  budget.drop_call('list for ' .. job)
  available = {}
end

-- Tickets that became due and leases that ended enter their lines. Without its ticket nothing is known about
-- a job.
local leased_change = 0 -- change of the count "leased"; the lease of a dead worker is counted already
local function remove_job(job, score)
  redis.call('ZREM', KEYS[1], job)
  leased_change = leased_change - (score % 1 ~= 0 and 1 or 0)
end
local function take_back() -- a ticket that was handed over, and that no worker has taken
  local job, handed_fence = read_handed_over(redis.call('LINDEX', KEYS[6], 0))
  if not job then
    return
  end
  local stored = redis.call('HGET', KEYS[2], job)
  if stored and tonumber(redis.call('ZSCORE', KEYS[1], job) or '0') == handed_fence then
    drop_calls(job)
    redis.call('HINCRBY', KEYS[8], 'leased', -1)
    redis.call('ZADD', KEYS[1], line_score(job, stored, now, is_retry(stored)), job)
  end
  redis.call('DEL', KEYS[6])
end
local function enter_lines()
  local due = redis.call('ZRANGEBYSCORE', KEYS[1], 0, now, 'WITHSCORES', 'LIMIT', 0, MAX_ENTERED)
  local jobs, places = {}, {}
  for i = 1, #due, 2 do
    jobs[#jobs + 1] = due[i]
  end
  local tickets = #jobs > 0 and redis.call('HMGET', KEYS[2], unpack(jobs)) or {}
  for i, job in ipairs(jobs) do
    local stored, score = tickets[i], tonumber(due[2 * i])
    local has_crashed = score % 1 ~= 0
    if has_crashed then
      drop_calls(job)
    end
    if stored then
      local place = line_score(job, stored, score, not has_crashed and is_retry(stored))
      places[#places + 1], places[#places + 2] = place + (has_crashed and 0.5 or 0), job
    else
      remove_job(job, score)
    end
  end
  if #places > 0 then
    redis.call('ZADD', KEYS[1], unpack(places))
  end
end

-- The ticket of a dead worker may be behind those that enter. Its call must not block all workers.
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
take_back()
enter_lines()
if calls_available('get') < 1 or calls_available('list') < 1 then
  drop_dead_calls()
end

-- A line is read in growing steps. What this claim leases stays in it until the end, and is skipped.
local lines, leased = {}, {}
local function open_line(begins)
  lines[begins] = lines[begins] or { begins = begins, jobs = {}, scores = {}, at = 1, step = 1, has_more = true }
  return lines[begins]
end
local function open_scope(begins, job, score) -- this ticket is the first in the lines of the scope
  local has_list = score < begins + LINES.get
  local line = open_line(begins + (has_list and 0 or LINES.get))
  if #line.jobs == 0 then
    line.jobs[1], line.scores[1], line.step = job, score, 4
  end
  if not has_list then
    open_line(begins).has_more = false
  end
end
local function read_line(line, count)
  local last, skip = line.begins + LINES.last, #line.jobs
  local more = redis.call('ZRANGEBYSCORE', KEYS[1], line.begins, last, 'WITHSCORES', 'LIMIT', skip, count)
  for i = 1, #more, 2 do
    line.jobs[#line.jobs + 1] = more[i]
    line.scores[#line.scores + 1] = tonumber(more[i + 1])
  end
  line.has_more = #more == 2 * count
end
local function next_job(line) -- job, score, or nil at the end of the line
  while line.jobs[line.at] or line.has_more do
    local job = line.jobs[line.at]
    if not job then
      read_line(line, line.step)
      line.step = math.min(line.step * 4, 64)
    elseif leased[job] then
      line.at = line.at + 1
    else
      return job, line.scores[line.at]
    end
  end
  return nil
end

local function read_ticket(job, score, stored) -- the ticket with its crashes counted, or nil if there is none
  if not stored then
    remove_job(job, score)
    leased[job] = true
    return nil
  elseif score % 1 == 0 or #stored < 14 then
    return { job = job, score = score, stored = stored, crashes = 0 }
  end
  local generation, crashes = struct.unpack('>I4I2', stored)
  crashes = math.min(crashes + 1, 65535)
  stored = struct.pack('>I4I2', generation, crashes) .. string.sub(stored, 7)
  return { job = job, score = score, stored = stored, crashes = crashes }
end
local function next_ticket(line)
  while not line.ticket or leased[line.ticket.job] do
    local job, score = next_job(line)
    if not job then
      return nil
    end
    line.ticket = read_ticket(job, score, redis.call('HGET', KEYS[2], job))
  end
  return line.ticket
end

local scores, claimed, calls_acquired = {}, {}, 0
local crashed_tickets = {} -- job, its ticket with one crash more
local function lease(ticket, leader)
  if ticket.score % 1 ~= 0 then
    crashed_tickets[#crashed_tickets + 1], crashed_tickets[#crashed_tickets + 2] = ticket.job, ticket.stored
  else
    leased_change = leased_change + 1
  end
  leased[ticket.job] = true
  scores[#scores + 1], scores[#scores + 2] = fence, ticket.job
  claimed[#claimed + 1], claimed[#claimed + 2] = ticket.job, leader
  add_to_reply(ticket.job, ticket.stored, leader)
end

local function has_id(job)
  return string.sub(job, 1, 3) == 'id:'
end
local function batch_of(ticket)
  if not has_id(ticket.job) then
    return string.match(ticket.job, '^find:[^/]*/[^/]*/')
  end
  local project, environment, application = read_scope(ticket.stored)
  return project and environment and application and 'id:' .. project .. '/' .. environment .. '/'
end

-- Return the tickets that may follow the leader of a batch, and whether more are due than may be claimed now.
-- offset is where their lines begin, after those of all first attempts or retries.
local function find_followers(batch, leader, offset)
  local found, has_more, room = {}, false, followers_free
  if leader.crashes > 0 then
    room = math.min(room, MAX_BATCHES[leader.crashes] - 1)
  end
  for _, begins in ipairs({ LINES.first + offset, LINES.retry + offset }) do
    local line = open_line(begins)
    local unread = line.at + room + 1 - #line.jobs
    if line.has_more and unread > 0 then
      read_line(line, unread)
    end
    local jobs, job_scores = {}, {}
    for i = line.at, #line.jobs do
      local job = line.jobs[i]
      local is_member = has_id(job) or string.sub(job, 1, #batch) == batch
      if is_member and job ~= leader.job and not leased[job] then
        if #found + #jobs == room then
          has_more = leader.crashes == 0
          break
        end
        jobs[#jobs + 1], job_scores[#job_scores + 1] = job, line.scores[i]
      end
    end
    local tickets = #jobs > 0 and redis.call('HMGET', KEYS[2], unpack(jobs)) or {}
    for i, job in ipairs(jobs) do
      local ticket = read_ticket(job, job_scores[i], tickets[i])
      if ticket and ticket.crashes == leader.crashes and batch_of(ticket) == batch then
        found[#found + 1] = ticket
      end
    end
  end
  return found, has_more
end
local function lease_followers(found, has_more, leader)
  for _, ticket in ipairs(found) do
    lease(ticket, leader)
  end
  followers_free = followers_free - #found
  reply[3] = has_more and followers_free == 0 and leader or ''
end

local sleep -- ms, or nil while nothing that is due has to wait
local may_list = followers_free > 0 and calls_available('list') >= 1
-- Calls are scarce if they do not suffice for what this worker could take next, however much waits behind it.
local due_count = math.min(redis.call('ZCOUNT', KEYS[1], '-inf', '(0'), limit + MAX_SKIPPED)
local is_scarce = may_list and due_count > calls_available('get')
local function plan_call(ticket, offset) -- the call that a ticket needs, or nil if it is not available
  local batch = may_list and ticket.crashes <= #MAX_BATCHES and batch_of(ticket) or nil
  local is_shared, followers, has_more = batch and not has_id(ticket.job), {}, false
  if batch and (is_shared or is_scarce) and calls_available('list') >= 1 then
    followers, has_more = find_followers(batch, ticket, offset)
    is_shared = is_shared or #followers + 1 >= MIN_BATCH
  end
  local free, opens = calls_available((is_shared or not has_id(ticket.job)) and 'list' or 'get')
  if free < 1 then
    sleep = math.min(sleep or math.huge, opens - now)
    return nil
  end
  return { ticket = ticket, followers = is_shared and followers or {}, has_more = has_more }
end

-- A circle is the scopes with lines of first attempts, or of retries, from the one after the last turn on.
local turns = redis.call('HMGET', KEYS[9], 'first', 'retry', 'first_calls', 'claimed_at')
local first_calls = tonumber(turns[3] or '0') -- calls for first attempts while retries were due, since the last one
if now - tonumber(turns[4] or '0') >= CLAIMED_STEP then -- full memory must not stop a claim here
  redis.pcall('HSET', KEYS[9], 'claimed_at', string.format('%.0f', now))
  redis.pcall('PEXPIRE', KEYS[9], TURNS_TTL)
end
local has_retries = redis.call('ZCOUNT', KEYS[1], LINES.retry, '(0') > 0
local function open_circle(name, last_turn)
  local parts = { { last_turn + 1, LINES.scopes }, { 0, last_turn + 1 } }
  return { name = name, begins = LINES[name], parts = parts, scopes = {}, at = 0, turn = last_turn }
end
local circles = {
  first = open_circle('first', tonumber(turns[1] or '-1')),
  retry = open_circle('retry', tonumber(turns[2] or '-1')),
}
local function next_scope(circle)
  while circle.parts[1] do
    local part = circle.parts[1]
    local from, to = circle.begins + part[1] * LINES.scope, circle.begins + part[2] * LINES.scope - 0.5
    local found = redis.call('ZRANGEBYSCORE', KEYS[1], from, to, 'WITHSCORES', 'LIMIT', 0, 1)
    if found[2] then
      local score = tonumber(found[2])
      local scope = math.floor((score - circle.begins) / LINES.scope)
      open_scope(circle.begins + scope * LINES.scope, found[1], score)
      part[1], circle.at = scope + 1, #circle.scopes + 1
      circle.scopes[circle.at] = scope
      return scope
    end
    table.remove(circle.parts, 1)
  end
  circle.at = #circle.scopes > 0 and circle.at % #circle.scopes + 1 or 0
  return circle.scopes[circle.at]
end
local skipped = 0
local function next_call(circle)
  while skipped < MAX_SKIPPED do
    local scope = next_scope(circle)
    if not scope then
      return nil
    end
    local offset, call = scope * LINES.scope, nil
    for _, kind in ipairs({ 0, LINES.get }) do -- of two lines, the one whose first ticket has waited longer
      local ticket = next_ticket(open_line(circle.begins + offset + kind))
      local planned = ticket and plan_call(ticket, offset + kind)
      if planned and (not call or due_since(ticket.score) < due_since(call.ticket.score)) then
        call = planned
      end
    end
    if call then
      call.circle, call.scope = circle, scope
      return call
    end
    table.remove(circle.scopes, circle.at) -- empty by now, or without a call
    circle.at = circle.at - 1
    if circle.parts[1] then
      skipped, circle.turn = skipped + 1, scope
    end
  end
  sleep = math.min(sleep or math.huge, SKIP_PAUSE)
  return nil
end
local function next_turn()
  local get, get_opens = calls_available('get')
  local list, list_opens = calls_available('list')
  if get < 1 and list < 1 then
    sleep = #scores / 2 < due_count and math.min(get_opens, list_opens) - now or nil
    return nil
  end
  local is_retry_turn = first_calls + 1 >= RETRY_EVERY
  local circle = is_retry_turn and circles.retry or circles.first
  return next_call(circle) or next_call(is_retry_turn and circles.first or circles.retry)
end

local function continue_batch(leader)
  local stored = redis.call('HGET', KEYS[2], leader)
  local score = tonumber(redis.call('ZSCORE', KEYS[1], leader) or '0')
  local ticket = { job = leader, stored = stored, crashes = 0 } -- only a batch without crashes is continued
  local batch = stored and score == tonumber(ARGV[7]) and batch_of(ticket)
  if batch then
    local offset = line_score(leader, stored, 0, false) - LINES.first
    local found, has_more = find_followers(batch, ticket, offset)
    lease_followers(found, has_more, leader)
  end
end
if ARGV[6] ~= '' and followers_free > 0 then
  continue_batch(ARGV[6])
end
local call = reply[3] == '' and next_turn()
while call and calls_acquired < limit do
  local ticket, circle = call.ticket, call.circle
  calls_acquired, available, circle.turn = calls_acquired + 1, {}, call.scope
  first_calls = circle == circles.first and has_retries and first_calls + 1 or 0
  budget.acquire(ticket.job, now + call_ttl)
  lease(ticket, '')
  lease_followers(call.followers, call.has_more, ticket.job)
  call = reply[3] == '' and next_turn()
end
if call or reply[3] ~= '' then
  sleep = 0
end

if sleep == 0 then
  wake(KEYS[6]) -- more is due than one worker may take: another worker continues
end
if calls_acquired > 0 or skipped > 0 then
  local first, retry = circles.first.turn, circles.retry.turn
  redis.call('HSET', KEYS[9], 'first', first, 'retry', retry, 'first_calls', first_calls)
  redis.call('PEXPIRE', KEYS[9], TURNS_TTL)
end
if leased_change ~= 0 then
  redis.call('HINCRBY', KEYS[8], 'leased', leased_change)
end
-- The leases are the last write: a lease whose claim fails would end as that of a dead worker.
if #scores > 0 then
  claimed[#claimed + 1] = fence_text
  redis.call('SET', KEYS[7], cmsgpack.pack(claimed), 'PX', lease_ms)
  if crashed_tickets[1] then
    redis.call('HSET', KEYS[2], unpack(crashed_tickets))
  end
  redis.call('ZADD', KEYS[1], unpack(scores))
end
if not sleep or calls_available('get') >= 1 or calls_available('list') >= 1 then
  local first = redis.call('ZRANGEBYSCORE', KEYS[1], 0, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  local next_due = first[2] and math.max(0, tonumber(first[2]) - now)
  sleep = next_due and math.min(sleep or math.huge, next_due) or sleep or -1
end
if ARGV[8] == '1' and sleep ~= 0 and calls_acquired < limit and redis.call('PTTL', KEYS[10]) < WAITING_TTL / 2 then
  redis.call('SET', KEYS[10], '1', 'PX', WAITING_TTL)
end
reply[2] = math.ceil(sleep)
return reply
