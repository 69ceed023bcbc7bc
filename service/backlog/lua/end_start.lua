-- End the ticket of a deployment that started: LaunchDarkly knows of it, and there is no record of a start.
-- (Loaded after lib_lines.lua and lib_tickets.lua.)
-- KEYS     1 backlog  2 tickets  3 calls  4 waiting  5 wakeup  6 counts
-- ARGV     1 job  2 fence  3 generation  4 first and 5 last of the events of the ticket that end here
-- Returns  "ended" | "lease_lost"
-- Atomic   only the holder of the lease may end the ticket, and events that arrived meanwhile stay.
-- Flags    allow-oom: it ends a lease, and the ticket becomes no larger.
local keys = {
  backlog = KEYS[1], tickets = KEYS[2], calls = KEYS[3], waiting = KEYS[4], wakeup = KEYS[5], counts = KEYS[6],
}
local job, now = ARGV[1], (now_ms())
local stored = redis.call('HGET', keys.tickets, job)
if tonumber(redis.call('ZSCORE', keys.backlog, job) or '0') ~= tonumber(ARGV[2]) then
  return stored and 'lease_lost' or 'ended' -- ended: only the reply was lost
end
release_calls(keys, job)
end_ticket(keys, job, plan_end(stored, ARGV[3], ARGV[4], ARGV[5]), now)
return 'ended'
