-- Record one delivery and queue its ticket. (Loaded after lib_failures.lua and lib_tickets.lua.)
-- KEYS     1 delivery mark  2 backlog  3 tickets  4 failed  5 failed data  6 wakeup  7 budget
--          8 counts  9 failed raw
-- ARGV     1 token of this call  2 job  3 ticket (msgpack)  4 TTL of the mark (ms)  5 maximum tickets
-- Returns  {"queued", job} | {"duplicate", job} | {"full", seconds to wait}
-- Atomic   a mark without its ticket would drop every retry of the sender;
--          a ticket without its mark would be fetched twice.
-- A failed ticket of the job is retried if this is one of its events. Other failed events of the job stay.
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

local now = now_ms()
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
-- The failures follow the ticket, and the mark follows both: a command that fails loses nothing.
put_ticket(keys, job, stored, ticket, now)
if has_failed then
  drop_failure(keys, job)
end
if failed_job and failed_job ~= job then
  drop_failure(keys, failed_job)
end
redis.call('SET', KEYS[1], token .. ' ' .. job, 'PX', ttl)
wake(KEYS[6])
return { 'queued', job }
