-- Move a leased ticket to the failed ones, for a person. (Loaded after lib_failures.lua and lib_tickets.lua.)
-- KEYS     1 backlog  2 tickets  3 failed  4 failed data  5 calls  6 waiting  7 wakeup
--          8 counts
-- ARGV     1 job  2 fence  3 generation  4 failure record (msgpack)  5 TTL of failure records (ms)
-- Returns  "failed" | "superseded" (a newer event arrived meanwhile: it is due now) | "lease_lost"
-- Atomic   a ticket is either in the backlog or failed, never both and never neither.
local keys = {
  backlog = KEYS[1], tickets = KEYS[2], failed = KEYS[3], failed_data = KEYS[4],
  calls = KEYS[5], waiting = KEYS[6], wakeup = KEYS[7], counts = KEYS[8],
}
local job, failure, now = ARGV[1], ARGV[4], (now_ms())
local score = redis.call('ZSCORE', keys.backlog, job)
if not score and redis.call('HGET', keys.failed_data, job) == failure then
  redis.call('HSET', keys.failed_data, job, failure) -- a write, so that the group commit makes the first one durable
  return 'failed' -- this call was executed before and only its reply was lost
elseif tonumber(score or '0') ~= tonumber(ARGV[2]) then
  return 'lease_lost'
end
local stored = redis.call('HGET', keys.tickets, job)
if not is_superseded(stored, ARGV[3]) then
  store_failure(keys, job, failure, now)
end
release_calls(keys, job)
if not end_ticket(keys, job, stored, ARGV[3], now) then
  return 'superseded'
end
drop_old_failures(keys, now - tonumber(ARGV[5]))
return 'failed'
