-- Move a leased ticket to the failed ones, for a person. (Loaded after lib_failures.lua and lib_tickets.lua.)
-- KEYS     1 backlog  2 tickets  3 failed  4 failed data  5 calls  6 waiting  7 wakeup
--          8 counts  9 failed raw
-- ARGV     1 job  2 fence  3 generation  4 failure record (msgpack)
--          5 the events that failed (event list), or "" if their job says which deployment it is
--          6 first and 7 last of the events of the ticket that failed
--          8 raw response (compressed), or ""
-- Returns  "failed" (other events of the ticket may wait still) | "oldest_dropped" (it failed, and the oldest
--          failed event of the job is dropped, because its record is full) | "superseded" (a newer event of the
--          deployment arrived meanwhile: it is due now) | "lease_lost"
-- Atomic   a ticket is either in the backlog or failed, never both and never neither.
local keys = {
  backlog = KEYS[1], tickets = KEYS[2], failed = KEYS[3], failed_data = KEYS[4],
  calls = KEYS[5], waiting = KEYS[6], wakeup = KEYS[7], counts = KEYS[8], failed_raw = KEYS[9],
}
local job, failure, now = ARGV[1], ARGV[4], (now_ms())
local score = redis.call('ZSCORE', keys.backlog, job)
if tonumber(score or '0') ~= tonumber(ARGV[2]) then
  local before = redis.call('HGET', keys.failed_data, job)
  if before and string.sub(before, 1, #failure) == failure then -- it holds the fence
    redis.call('HSET', keys.failed_data, job, before) -- a write, so that the group commit makes the first one durable
    return 'failed' -- this call was executed before and only its reply was lost
  end
  return 'lease_lost'
end
local stored = redis.call('HGET', keys.tickets, job)
local plan = plan_end(stored, ARGV[3], ARGV[6], ARGV[7], true)
local is_superseded = not plan.has_ended and (ARGV[5] == '' or not plan.is_removed)
local drops_oldest, earlier = false, redis.call('HGET', keys.failed_data, job)
if not is_superseded and (ARGV[5] ~= '' or read_failed_events(earlier)) then
  failure, drops_oldest = join_failure(failure, ARGV[5], earlier)
end
if not is_superseded then
  store_failure(keys, job, failure, ARGV[8], now)
end
release_calls(keys, job)
end_ticket(keys, job, plan, now)
if is_superseded then
  return 'superseded'
end
return drops_oldest and 'oldest_dropped' or 'failed'
