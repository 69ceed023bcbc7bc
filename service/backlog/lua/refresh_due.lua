-- Make tickets of what is to be looked at. (enrich/room.lua and enrich/leftover.lua stand before.)
-- KEYS     1 looks  2 their tickets  3 backlog  4 tickets  5 failed  6 budget  7 calls  8 callers
-- ARGV     1 how many at most  2 share of the limit that is ours
-- Returns  {how many there are now, ms after which to ask again or -1: nothing is planned}
-- Atomic   a look is planned or waits as a ticket, never both and never neither.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if not first[1] then
  return { 0, -1 }
elseif tonumber(first[2]) > now then
  return { 0, math.ceil(first[2] - now) }
end
local budget = open_budget(KEYS[6], KEYS[7], KEYS[8], now, tonumber(ARGV[2]))
local calls, wait = left_over(budget, KEYS[3], 'get', now)
if calls < 1 then
  return { 0, math.ceil(wait) }
end

local most, moved = math.min(calls, tonumber(ARGV[1])), 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, most)) do
  local job, ticket = 'id:' .. id, redis.call('HGET', KEYS[2], id)
  if ticket and redis.call('HEXISTS', KEYS[4], job) == 1 then
    redis.call('ZADD', KEYS[1], now + 60000, id) -- somebody is about to look anyway
  else
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
    -- What has failed waits for a person: whoever takes it up again plans the looks anew.
    if ticket and not redis.call('ZSCORE', KEYS[5], job) then
      local _, _, queued_at = struct.unpack('>I4I2d', ticket)
      if queued_at == 0 then -- no webhook told of it: it begins to wait now
        ticket = struct.pack('>I4I2d', 1, 0, now) .. string.sub(ticket, 15)
      end
      redis.call('HSET', KEYS[4], job, ticket)
      redis.call('ZADD', KEYS[3], now, job)
      moved = moved + 1
    end
  end
end
return { moved, 0 }
