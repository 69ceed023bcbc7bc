-- Queue the refreshes that are due. (Loaded after enrich/lua/lib_budget.lua and lib_lines.lua.)
-- KEYS     1 refreshes  2 tickets of refreshes  3 backlog  4 tickets  5 failed  6 budget  7 calls
--          8 waiting
-- ARGV     1 maximum to queue  2 share of the rate limit to use
-- Returns  {number queued, ms after which to ask again, or -1 if no refresh is scheduled}
-- Atomic   a refresh is either scheduled or queued as a ticket, never both and never neither.
local now = now_ms()
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[1] then
  return { 0, -1 }
elseif tonumber(first[2]) > now then
  return { 0, math.ceil(first[2] - now) }
end
local budget = open_budget(KEYS[6], KEYS[7], KEYS[8], now, tonumber(ARGV[2]))
local calls, wait = spare_calls(budget, KEYS[3], 'get', now)
if calls < 1 then
  return { 0, math.ceil(wait) }
end

local limit, queued = math.min(calls, tonumber(ARGV[1])), 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, limit)) do
  local job, ticket = 'id:' .. id, redis.call('HGET', KEYS[2], id)
  if ticket and redis.call('HEXISTS', KEYS[4], job) == 1 then
    redis.call('ZADD', KEYS[1], now + 60000, id) -- the queued ticket fetches the deployment anyway
  else
    local queued_at = ticket and struct.unpack('>d', ticket, 7)
    local is_missed = queued_at == 0 -- reconciliation found it, not a webhook: its wait starts now
    -- A failed job waits for a person. It does not stop the refreshes of an earlier revision.
    if ticket and not (is_missed and redis.call('ZSCORE', KEYS[5], job)) then
      if is_missed then
        ticket = struct.pack('>I4I2d', 1, 0, now) .. string.sub(ticket, 15)
      end
      redis.call('HSET', KEYS[4], job, ticket)
      redis.call('ZADD', KEYS[3], line_score(job, ticket, now, true), job)
      queued = queued + 1
    end
    redis.call('HDEL', KEYS[2], id) -- after the ticket: a command that fails loses no refresh
    redis.call('ZREM', KEYS[1], id)
  end
end
return { queued, 0 }
