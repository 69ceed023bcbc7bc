-- Put a leased ticket back into the backlog with its new state. (Loaded after lib_lines.lua and lib_tickets.lua.)
-- KEYS     1 backlog  2 tickets  3 calls  4 waiting  5 wakeup  6 counts
-- ARGV     1 job  2 fence  3 generation  4 delay (ms)  5 ticket (msgpack)
--          6 ms to a multiple of which the due time is rounded up, or 0
-- Returns  "postponed" | "superseded" (a newer event arrived meanwhile: it is due now) | "lease_lost"
-- Atomic   only the holder of the lease may move a ticket; the ticket of a newer event stays unchanged
--          and is due at once.
-- Flags    allow-oom: it ends a lease, and the ticket hardly grows.
local keys = { backlog = KEYS[1], tickets = KEYS[2], calls = KEYS[3], waiting = KEYS[4], counts = KEYS[6] }
local job, generation, now = ARGV[1], tonumber(ARGV[3]), (now_ms())
local score = tonumber(redis.call('ZSCORE', keys.backlog, job) or '0')
local stored = redis.call('HGET', keys.tickets, job)
if score ~= tonumber(ARGV[2]) then
  local is_done = score % 1 == 0 and stored and string.sub(stored, 15) == ARGV[5]
  return is_done and 'postponed' or 'lease_lost' -- is_done: only the reply was lost
end
local status = 'postponed'
local due, multiple = now + math.max(0, math.floor(tonumber(ARGV[4]))), tonumber(ARGV[6])
if multiple > 0 then -- tickets that can share a call are due together
  due = math.ceil(due / multiple) * multiple
end
if is_superseded(stored, generation) then
  due, status = now, 'superseded'
elseif stored then
  stored = string.sub(stored, 1, 14) .. ARGV[5]
  redis.call('HSET', keys.tickets, job, stored)
end
release_calls(keys, job)
local is_due = stored and due <= now
redis.call('ZADD', keys.backlog, is_due and line_score(job, stored, now, is_retry(stored)) or due, job)
-- A worker may sleep until the ticket that was first so far: it must learn that this one is first now.
if due <= now or redis.call('ZRANK', keys.backlog, job) == 0 then
  wake(KEYS[5])
end
return status
