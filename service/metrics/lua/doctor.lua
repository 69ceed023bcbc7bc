-- Measure who works on the backlog and how long tickets have waited.
-- KEYS     1 backlog  2 tickets
-- ARGV     1 maximum tickets to scan, of those due and of those not yet due
-- Returns  {tickets due, ms since the first of them was due, current leases,
--           ms since the oldest scanned ticket was queued}
-- Atomic   the numbers belong to one moment. claim.lua describes the scores.
local now = now_ms()
local limit = tonumber(ARGV[1])
local leased, oldest, overdue = 0, now, 0

local function scan(from, to)
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], from, to, 'WITHSCORES', 'LIMIT', 0, limit)
  for i = 1, #found, 2 do
    local score, stored = tonumber(found[i + 1]), redis.call('HGET', KEYS[2], found[i])
    if score > now and score % 1 ~= 0 then
      leased = leased + 1
    end
    overdue = math.max(overdue, now - score)
    if stored and #stored >= 14 then
      local _, _, queued_at = struct.unpack('>I4I2d', stored)
      oldest = math.min(oldest, queued_at)
    end
  end
end
scan('-inf', now)
scan('(' .. now, '+inf')
return { redis.call('ZCOUNT', KEYS[1], '-inf', now), math.floor(overdue), leased, math.floor(now - oldest) }
