-- Record one delivery and queue its ticket; on an idle system, hand it to a worker that waits.
-- (Loaded after enrich/lua/lib_budget.lua, lib_failures.lua, lib_tickets.lua and lib_hand_over.lua.)
-- KEYS     1 delivery mark  2 backlog  3 tickets  4 failed  5 failed data  6 wakeup  7 budget
--          8 counts  9 failed raw  10 calls  11 waiting  12 turns  13 waiting worker
-- ARGV     1 token of this call  2 job  3 ticket (msgpack)  4 TTL of the mark (ms)  5 maximum tickets
--          6 lease (ms)  7 TTL of a call (ms)  8 share of the rate limit to use
-- Returns  {"queued", job} | {"duplicate", job} | {"full", seconds to wait} | {"ticket_full", seconds to wait}
-- Atomic   a mark without its ticket would drop every retry of the sender;
--          a ticket without its mark would be fetched twice.
-- A failed ticket of the job is retried if this is one of its events. Other failed events of the job stay. So do
-- those of the job that the delivery belonged to, if it has another one now: its source was changed.
--
-- A system is idle if a worker waits, no call is in flight, no ticket is due, and there are spare calls. Then it
-- is the turn of the new ticket, and a claim would lease it next. Its lease in this script needs no write of its
-- own. Of several tickets that arrive at once only the first is handed over: the others may share a call.
local TURNS_TTL = 86400000
local FULL_TICKET_WAIT = 60 -- s after which the sender may try again
local token, job, ticket, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local keys = {
  backlog = KEYS[2], tickets = KEYS[3], failed = KEYS[4], failed_data = KEYS[5], counts = KEYS[8],
  failed_raw = KEYS[9],
}

local mark, failed_job = redis.call('GET', KEYS[1]), nil
if mark then
  local marked_job = string.sub(mark, #token + 2)
  if string.sub(mark, 1, #token) == token then
    redis.call('PEXPIRE', KEYS[1], ttl) -- a write, so that the group commit makes the first one durable
    return { 'queued', marked_job } -- this call was executed before and only its reply was lost
  end
  if not redis.call('ZSCORE', keys.failed, marked_job) then
    redis.call('PEXPIRE', KEYS[1], ttl) -- a write, for the same reason
    return { 'duplicate', marked_job }
  end
  failed_job = marked_job -- a redelivery retries a failed ticket
end

local stored = redis.call('HGET', keys.tickets, job)
if not stored and redis.call('ZCARD', keys.backlog) >= tonumber(ARGV[5]) then
  local per_s = tonumber(redis.call('HGET', KEYS[7], 'settled_per_s') or '0')
  return { 'full', math.ceil(redis.call('ZCARD', keys.backlog) / math.max(per_s, 0.1)) }
end

local now, microseconds = now_ms()
if is_ticket_full(keys, job, stored, ticket, now) then
  return { 'ticket_full', FULL_TICKET_WAIT }
end
local function budget_for_hand_over() -- or nil if the ticket cannot be handed over
  if redis.call('EXISTS', KEYS[13]) == 0 or redis.call('LLEN', KEYS[6]) > 0 then
    return nil -- nobody waits, or nobody has taken the last element
  elseif redis.call('ZCARD', KEYS[10]) > 0 or redis.call('ZSCORE', keys.backlog, job) then
    return nil
  end
  local budget = open_budget(KEYS[7], KEYS[10], KEYS[11], now, tonumber(ARGV[8]), tonumber(ARGV[7]))
  local route = string.sub(job, 1, 3) == 'id:' and 'get' or 'list'
  return spare_calls(budget, keys.backlog, route, now) >= 1 and budget or nil
end

-- As claim.lua leases it. The lease is the last write: until then the ticket stands in its line.
local function hand_over(budget)
  local queued, place = redis.call('HGET', keys.tickets, job), tonumber(redis.call('ZSCORE', keys.backlog, job))
  local scope = math.floor((place - LINES.first) / LINES.scope)
  local fence, fence_text = new_fence(now, microseconds, tonumber(ARGV[6]))
  budget.acquire(job, now + tonumber(ARGV[7]))
  redis.call('HSET', KEYS[12], 'first', scope, 'first_calls', 0)
  redis.call('PEXPIRE', KEYS[12], TURNS_TTL)
  redis.call('LPUSH', KEYS[6], format_handed_over(job, fence_text, now, queued))
  redis.call('PEXPIRE', KEYS[6], ARGV[6])
  redis.call('HINCRBY', keys.counts, 'leased', 1)
  redis.call('ZADD', keys.backlog, fence, job)
end

-- The delivery has another job now: it leaves the failed events of its former one, and the others stay. A record
-- without a list is of this delivery alone, or of one deployment that several deliveries reported, of which it
-- holds one.
local function drop_failed_event()
  local failure, others = redis.call('HGET', keys.failed_data, failed_job) or '', {}
  local events, first = last_event_list(failure)
  local dropped = read_event_fields(ticket)
  local is_parked = string.sub(failed_job, 1, 11) == 'unmappable:'
  if not events and not is_parked then
    local of_delivery = cmsgpack.pack(dropped.source) .. cmsgpack.pack(dropped.delivery)
    if not string.find(failure, of_delivery, 1, true) then
      return
    end
  end
  for _, event in ipairs(events or {}) do
    local fields = read_event_fields(event[2])
    if fields.source ~= dropped.source or fields.delivery ~= dropped.delivery then
      others[#others + 1] = event
    end
  end
  if #others == 0 then
    drop_failure(keys, failed_job)
  else
    replace_failure(keys, failed_job, string.sub(failure, 1, first - 1) .. join_event_list(others))
  end
end

local is_new = not stored and not failed_job
local has_failed = redis.call('ZSCORE', keys.failed, job)
if has_failed then
  local events = read_failed_events(redis.call('HGET', keys.failed_data, job))
  if failed_job == job or not events or is_repeat(job, events, ticket, now) then
    requeue_failed_events(keys, job, stored, events, now)
    stored = redis.call('HGET', keys.tickets, job)
  else
    has_failed = false -- by another deployment of the version: its failure stays
  end
end
local spare = is_new and not has_failed and budget_for_hand_over()
-- The failures follow the ticket, and the mark follows both: a command that fails loses nothing.
put_ticket(keys, job, stored, ticket, now)
if has_failed then
  drop_failure(keys, job)
end
if failed_job and failed_job ~= job then
  drop_failed_event()
end
redis.call('SET', KEYS[1], token .. ' ' .. job, 'PX', ttl)
if spare then
  hand_over(spare)
else
  wake(KEYS[6])
end
return { 'queued', job }
