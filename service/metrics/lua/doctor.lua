-- See who works on the backlog, and since when it waits.
-- KEYS     1 backlog  2 tickets
-- ARGV     1 how many tickets to look at, of those due and of those not yet due
-- Returns  {tickets due, ms since the first of them is, leases that stand,
--           ms since the oldest of those looked at was queued}
-- Atomic   the numbers belong to one moment. Scores are as claim.lua says.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local many = tonumber(ARGV[1])
local leased, oldest, overdue = 0, now, 0

local function look(from, to)
  local found = redis.call('ZRANGEBYSCORE', KEYS[1], from, to, 'WITHSCORES', 'LIMIT', 0, many)
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
look('-inf', now)
look('(' .. now, '+inf')
return { redis.call('ZCOUNT', KEYS[1], '-inf', now), math.floor(overdue), leased, math.floor(now - oldest) }
