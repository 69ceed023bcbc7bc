-- Queue failed tickets and parked events that a person has chosen. (Loaded after lib_failures.lua and lib_tickets.lua.)
-- KEYS     1 backlog  2 tickets  3 failed  4 failed data  5 wakeup  6 reply of this call  7 counts
--          8 failed raw, then one per failed job: its delivery mark
-- ARGV     fours, one per failed job: the failed job, SHA-1 of its failure record as it was read,
--          job to queue or "" to skip it, ticket (msgpack) or the failure record with its new reason
-- Returns  one element per failed job: "queued" | "superseded" (a newer ticket of the job is queued: the
--          failure is dropped) | "skipped" | "gone" (deleted or failed again since it was read)
-- Atomic   a ticket is either in the backlog or failed, never both and never neither.
local REPLY_TTL = 60000 -- ms for which a repeated call gets the same reply
local reply = redis.call('GET', KEYS[6])
if reply then
  redis.call('PEXPIRE', KEYS[6], REPLY_TTL) -- a write, so that the group commit makes the first one durable
  return cmsgpack.unpack(reply)
end
local keys = {
  backlog = KEYS[1], tickets = KEYS[2], failed = KEYS[3], failed_data = KEYS[4], counts = KEYS[7],
  failed_raw = KEYS[8],
}
local now = now_ms()

local function queue(job, ticket, failed_at)
  local stored = redis.call('HGET', keys.tickets, job)
  if stored and #stored >= 14 and string.sub(job, 1, 3) == 'id:' then
    local _, _, queued_at = struct.unpack('>I4I2d', stored)
    if queued_at > failed_at then
      return 'superseded'
    end
  end
  put_ticket(keys, job, stored, ticket, now)
  return 'queued'
end

local function retry(nth)
  local offset = (nth - 1) * 4
  local failed_job, digest, job, value = ARGV[offset + 1], ARGV[offset + 2], ARGV[offset + 3], ARGV[offset + 4]
  local failed_at = redis.call('ZSCORE', keys.failed, failed_job)
  local failure = redis.call('HGET', keys.failed_data, failed_job)
  if not failed_at or not failure or redis.sha1hex(failure) ~= digest then
    return 'gone'
  elseif job == '' then
    replace_failure(keys, failed_job, value)
    return 'skipped'
  end
  local mark = redis.call('GET', KEYS[8 + nth])
  local failed_events = read_failed_events(redis.call('HGET', keys.failed_data, job)) -- of the job itself
  local is_listed = job == failed_job and failed_events
  local status = is_listed and 'queued' or queue(job, value, tonumber(failed_at))
  requeue_failed_events(keys, job, redis.call('HGET', keys.tickets, job), failed_events, now)
  drop_failure(keys, job) -- the job of a parked event may have failed too
  if mark and job ~= failed_job and string.sub(mark, -#failed_job - 1) == ' ' .. failed_job then
    -- Redeliveries of the parked event become duplicates of the job that it is now.
    redis.call('SET', KEYS[8 + nth], string.sub(mark, 1, #mark - #failed_job) .. job, 'KEEPTTL')
  end
  drop_failure(keys, failed_job)
  return status
end

local statuses, is_any_queued = {}, false
for nth = 1, #KEYS - 8 do
  statuses[nth] = retry(nth)
  is_any_queued = is_any_queued or statuses[nth] == 'queued'
end
redis.call('SET', KEYS[6], cmsgpack.pack(statuses), 'PX', REPLY_TTL)
if is_any_queued then
  wake(KEYS[5])
end
return statuses
