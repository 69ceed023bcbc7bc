-- End a look of which nothing came, and plan the next. (ending.lua and plan.lua stand before.)
-- KEYS     1 backlog  2 tickets  3 calls  4 callers  5 bell  6 published  7 looks  8 their tickets
--          9 counts
-- ARGV     1 job  2 fence  3 generation  4 deployment id  5 since when looks are planned (ms)
--          6 when the next one is due (ms) or ""  7 its ticket  8 life of the mark (ms)
-- Returns  "skipped" | "superseded" (a webhook came meanwhile: it is due now) | "lease_lost"
-- Atomic   only who holds the lease may end the look, and its next one is not lost with it.
local job = ARGV[1]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if tonumber(redis.call('ZSCORE', KEYS[1], job) or '0') ~= tonumber(ARGV[2]) then
  local act = redis.call('HGET', KEYS[6], 'settled:' .. job)
  return act == ARGV[2] .. ' skipped 0' and 'skipped' or 'lease_lost' -- skipped: only the reply was lost
end
redis.call('ZREM', KEYS[3], job)
redis.call('ZREM', KEYS[4], job)
redis.call('HINCRBY', KEYS[9], 'leased', -1)
if not end_ticket({ backlog = KEYS[1], tickets = KEYS[2], bell = KEYS[5] }, job, ARGV[3], now) then
  return 'superseded'
end
local keys = { mark = KEYS[6], looks = KEYS[7], tickets = KEYS[8] }
plan_look(keys, ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8])
redis.call('HSET', KEYS[6], 'settled:' .. job, ARGV[2] .. ' skipped 0')
redis.call('PEXPIRE', KEYS[6], ARGV[8])
return 'skipped'
