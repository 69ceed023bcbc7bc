-- Define how failure records are stored, dropped and counted by reason. Placed before scripts that do any of it.
-- KEYS     none of its own: each function takes a table with the names of the keys:
--          failed, failed_data, failed_raw, counts
-- ARGV     none of its own
-- Returns  nothing; defines store_failure(keys, job, failure, raw, now), where raw is the response or body, or
--          empty; replace_failure(keys, job, failure), which leaves that and the time as they are;
--          and drop_failure(keys, job)
-- Atomic   a record and its count change in one script, so the counts per reason can be read without
--          reading all records.
-- The count is the field "failed:<reason>" of counts. The field is deleted when the count reaches 0.
local function reason_of(failure)
  -- Only the first pair is decoded: binary data follows, which cmsgpack does not support.
  local ok, _, field, reason = pcall(cmsgpack.unpack_limit, failure, 2, 1)
  return ok and field == 'reason' and type(reason) == 'string' and reason or 'other'
end

local function count_failure(counts, failure, by)
  local field = 'failed:' .. reason_of(failure)
  if redis.call('HINCRBY', counts, field, by) <= 0 then
    redis.call('HDEL', counts, field)
  end
end

local function drop_failure(keys, job)
  if redis.call('ZSCORE', keys.failed, job) then
    redis.call('HDEL', keys.failed_raw, job) -- the record goes later: without it, a repeated call finds nothing to do
    count_failure(keys.counts, redis.call('HGET', keys.failed_data, job) or '', -1)
    redis.call('HDEL', keys.failed_data, job)
    redis.call('ZREM', keys.failed, job)
  end
end

local function store_failure(keys, job, failure, raw, now)
  drop_failure(keys, job)
  if raw ~= '' then
    redis.call('HSET', keys.failed_raw, job, raw)
  end
  redis.call('HSET', keys.failed_data, job, failure)
  count_failure(keys.counts, failure, 1)
  redis.call('ZADD', keys.failed, now, job)
end

local function replace_failure(keys, job, failure)
  count_failure(keys.counts, redis.call('HGET', keys.failed_data, job) or '', -1)
  redis.call('HSET', keys.failed_data, job, failure)
  count_failure(keys.counts, failure, 1)
end
