-- Change what one event of a leased ticket says of its report to LaunchDarkly: before the call, and after it.
-- (Loaded after lib_lines.lua and lib_tickets.lua.)
-- KEYS     1 backlog  2 tickets  3 reports of the version
-- ARGV     1 job  2 fence  3 which of its events, from 1  4 the event with its report (msgpack)
--          5 "start" or "end": what is reported  6 its time (ms)  7 "begin" before the call, "finish" after it
--          8 ms for which an end waits for a start that is being reported  9 TTL of the reports (ms)
-- Returns  "written" | "lease_lost" | "busy": a start of the version is being reported, and its end must wait
--          | "late": a start comes after its end and must not be reported
-- Atomic   only the holder of the lease may report. A start and an end of one version belong to two tickets, and
--          LaunchDarkly would show a start that it receives after the end as a deployment that never ends.
local keys = { backlog = KEYS[1], tickets = KEYS[2], reports = KEYS[3] }
local job, index, event, kind, time, now = ARGV[1], tonumber(ARGV[3]), ARGV[4], ARGV[5], tonumber(ARGV[6]), (now_ms())
if tonumber(redis.call('ZSCORE', keys.backlog, job) or '0') ~= tonumber(ARGV[2]) then
  return 'lease_lost'
end
local stored = redis.call('HGET', keys.tickets, job)
local events = stored and #stored > 14 and read_events(stored) or {}
if not events[index] then
  return 'lease_lost'
elseif events[index][2] == event then -- this call was executed before and only its reply was lost
  redis.call('HSET', keys.tickets, job, stored) -- a write, so that the group commit makes the first one durable
  return 'written'
end
if ARGV[7] == 'finish' then
  if kind == 'start' then
    redis.call('HDEL', keys.reports, 'starting')
  end
elseif kind == 'start' then
  if time <= tonumber(redis.call('HGET', keys.reports, 'ended') or '-1') then
    return 'late'
  end
  redis.call('HSET', keys.reports, 'starting', string.format('%.0f', now))
  redis.call('PEXPIRE', keys.reports, ARGV[9])
else
  if now - tonumber(redis.call('HGET', keys.reports, 'starting') or '0') < tonumber(ARGV[8]) then
    return 'busy'
  end
  local ended = math.max(time, tonumber(redis.call('HGET', keys.reports, 'ended') or '0'))
  redis.call('HSET', keys.reports, 'ended', string.format('%.0f', ended))
  redis.call('PEXPIRE', keys.reports, ARGV[9])
end
local generation, crashes = struct.unpack('>I4I2', stored)
if ARGV[7] == 'finish' then
  crashes = 0 -- the call has ended: what follows is another attempt, and this ticket did not kill its worker
end
events[index][2] = event
redis.call('HSET', keys.tickets, job, join_events(generation, crashes, events))
return 'written'
