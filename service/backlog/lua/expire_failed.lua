-- Delete failed tickets and parked events that are no longer kept. (Loaded after lib_failures.lua.)
-- KEYS     1 failed  2 failed data  3 counts  4 failed raw
-- ARGV     1 how long a record is kept (ms)
-- Returns  {how many were deleted, 1 if there may be more: call again, or 0}
-- Atomic   a record and its count change together.
-- Flags    allow-oom: it frees memory.
local SLICE = 100 -- records that one call deletes at most, so that it blocks Redis briefly
local keys = { failed = KEYS[1], failed_data = KEYS[2], counts = KEYS[3], failed_raw = KEYS[4] }
local before = now_ms() - tonumber(ARGV[1])
local jobs = redis.call('ZRANGEBYSCORE', keys.failed, '-inf', before, 'LIMIT', 0, SLICE)
for _, job in ipairs(jobs) do
  drop_failure(keys, job)
end
return { #jobs, #jobs == SLICE and 1 or 0 }
