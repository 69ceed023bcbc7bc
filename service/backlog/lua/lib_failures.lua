-- Keep and drop failures, and count them by reason. Put before every script that does either.
-- KEYS     none of its own: keep_failure and drop_failure are given the names of failed, failures
--          and counts
-- ARGV     none of its own
-- Returns  nothing; defines keep_failure(job, failure, now, ...), drop_failure(job, ...) and
--          drop_old_failures(before, ...), where ... are those three names
-- Atomic   failure and count change in the one script that includes this, so that how many have
--          failed for which reason can be told without reading them all.
-- The count is the field "failed:<reason>" of counts, and goes when it comes to nothing.
local function read_reason(failure)
  -- Only the first pair is read: behind it stands binary, which cmsgpack does not know.
  local known, _, field, reason = pcall(cmsgpack.unpack_limit, failure, 2, 1)
  return known and field == 'reason' and type(reason) == 'string' and reason or 'other'
end

local function count_failure(counts, failure, by)
  local field = 'failed:' .. read_reason(failure)
  if redis.call('HINCRBY', counts, field, by) <= 0 then
    redis.call('HDEL', counts, field)
  end
end

local function drop_failure(job, failed, failures, counts)
  if redis.call('ZREM', failed, job) == 1 then
    count_failure(counts, redis.call('HGET', failures, job) or '', -1)
    redis.call('HDEL', failures, job)
  end
end

local function keep_failure(job, failure, now, failed, failures, counts)
  drop_failure(job, failed, failures, counts)
  redis.call('ZADD', failed, now, job)
  redis.call('HSET', failures, job, failure)
  count_failure(counts, failure, 1)
end

local function drop_old_failures(before, failed, failures, counts)
  for _, job in ipairs(redis.call('ZRANGEBYSCORE', failed, '-inf', before, 'LIMIT', 0, 100)) do
    drop_failure(job, failed, failures, counts)
  end
end
