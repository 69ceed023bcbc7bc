-- End a refresh that failed and schedule the next one. (Loaded after lib_tickets.lua and lib_refreshes.lua.)
-- KEYS     1 backlog  2 tickets  3 calls  4 waiting  5 wakeup  6 published  7 refreshes
--          8 tickets of refreshes  9 counts
-- ARGV     1 job  2 fence  3 generation  4 deployment id  5 time from which refreshes are planned (ms)
--          6 when the next one is due (ms) or ""  7 its ticket  8 TTL of published (ms)
-- Returns  "skipped" | "superseded" (a webhook arrived meanwhile: it is due now) | "lease_lost"
-- Atomic   only the holder of the lease may end the refresh, and the next one is scheduled with it.
-- Flags    allow-oom: it ends a lease, and the ticket of the next refresh is no larger.
local keys = {
  backlog = KEYS[1], tickets = KEYS[2], calls = KEYS[3], waiting = KEYS[4], wakeup = KEYS[5],
  published = KEYS[6], refreshes = KEYS[7], refresh_tickets = KEYS[8], counts = KEYS[9],
}
local job, now = ARGV[1], (now_ms())
local settlement = ARGV[2] .. ' skipped 0'
if tonumber(redis.call('ZSCORE', keys.backlog, job) or '0') ~= tonumber(ARGV[2]) then
  local last = redis.call('HGET', keys.published, 'settled:' .. job)
  return last == settlement and 'skipped' or 'lease_lost' -- skipped: only the reply was lost
end
local stored = redis.call('HGET', keys.tickets, job)
if not is_superseded(stored, ARGV[3]) then
  local since = redis.call('HGET', keys.published, 'since')
  local plan = { since = ARGV[5], due = ARGV[6], ticket = ARGV[7], ttl = ARGV[8] }
  local fields = schedule_refresh(keys, ARGV[4], plan, since)
  redis.call('HSET', keys.published, 'settled:' .. job, settlement, unpack(fields))
  redis.call('PEXPIRE', keys.published, ARGV[8])
end
release_calls(keys, job)
local plan = plan_end(stored, ARGV[3], 0, 0) -- a webhook that arrived meanwhile has replaced the refresh
return end_ticket(keys, job, plan, now) and 'skipped' or 'superseded'
