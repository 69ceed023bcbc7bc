-- Take up again what was given up or set aside, as a person asks for. (failures.lua stands before.)
-- KEYS     1 backlog  2 tickets  3 failed  4 failures  5 bell  6 mark of this act  7 counts
--          then one for each: its delivery mark
-- ARGV     then fours: job that failed, SHA-1 of its failure as it was read,
--          job to queue or "" to leave it, ticket (msgpack) or the failure with its new reason
-- Returns  one element each: "queued" | "superseded" (a newer ticket of the job does: the failed one is
--          dropped) | "skipped" | "gone" (by then it was no more, or had failed anew)
-- Atomic   a ticket is in the backlog or among the failed, never in both and never in neither.
local LIFE = 60000 -- ms for which this act is known again, should its reply be lost
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local done = redis.call('GET', KEYS[6])
if done then
  redis.call('PEXPIRE', KEYS[6], LIFE) -- a write, so that a durable group covers the first too
  return cmsgpack.unpack(done)
end

local function queue(job, ticket, failed_at)
  local stored, generation = redis.call('HGET', KEYS[2], job), 1
  if stored and #stored >= 14 then
    local before, _, queued_at = struct.unpack('>I4I2d', stored)
    if queued_at > failed_at then
      return 'superseded'
    end
    generation = before % 4294967295 + 1 -- as a newer event of the same job does: see add.lua
  end
  redis.call('HSET', KEYS[2], job, struct.pack('>I4I2d', generation, 0, now) .. ticket)
  local score = redis.call('ZSCORE', KEYS[1], job)
  if not score or tonumber(score) % 1 == 0 then -- a part of a millisecond marks a lease: it stays
    redis.call('ZADD', KEYS[1], now, job)
  end
  return 'queued'
end

local function take_up(nth)
  local at = (nth - 1) * 4
  local failed, digest, job, value = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local failed_at, kept = redis.call('ZSCORE', KEYS[3], failed), redis.call('HGET', KEYS[4], failed)
  if not failed_at or not kept or redis.sha1hex(kept) ~= digest then
    return 'gone'
  elseif job == '' then
    keep_failure(failed, value, failed_at, KEYS[3], KEYS[4], KEYS[7])
    return 'skipped'
  end
  local fate = queue(job, value, tonumber(failed_at))
  for _, name in ipairs({ failed, job }) do -- an event set aside may be of a job that failed too
    drop_failure(name, KEYS[3], KEYS[4], KEYS[7])
  end
  local mark = redis.call('GET', KEYS[7 + nth])
  if mark and job ~= failed and string.sub(mark, -#failed - 1) == ' ' .. failed then
    -- Its sender's repeats are duplicates of the job that it is now.
    redis.call('SET', KEYS[7 + nth], string.sub(mark, 1, #mark - #failed) .. job, 'KEEPTTL')
  end
  return fate
end

local fates, queued = {}, false
for nth = 1, #KEYS - 7 do
  fates[nth] = take_up(nth)
  queued = queued or fates[nth] == 'queued'
end
redis.call('SET', KEYS[6], cmsgpack.pack(fates), 'PX', LIFE)
if queued and redis.call('LLEN', KEYS[5]) == 0 then
  redis.call('LPUSH', KEYS[5], '1')
  redis.call('PEXPIRE', KEYS[5], 60000)
end
return fates
