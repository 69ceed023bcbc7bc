-- Lease the tickets that are due, as many as calls may be made now. (enrich/room.lua stands before.)
-- KEYS     1 backlog  2 tickets  3 budget  4 calls  5 callers  6 bell
-- ARGV     1 how many at most  2 lease (ms)  3 life of a call (ms)  4 share of the limit that is ours
-- Returns  {now, ms to sleep, job, fence, ticket, job, fence, ticket, ...}
-- Atomic   two workers never lease one ticket, and no ticket is handed out without its call.
-- A score is a time in ms: a whole one says when a ticket is due; with half a millisecond it is
-- a lease and says when that ends. Due again after a lease means that its worker died.
local wanted, lease, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local fence = now + lease + 0.5

local budget = open_budget(KEYS[3], KEYS[4], KEYS[5], now, tonumber(ARGV[4]))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, wanted + 1)
local reply, taken, sleep = { now, 0 }, 0, nil

for i = 1, #due, 2 do
  local job, crashed = due[i], tonumber(due[i + 1]) % 1 ~= 0
  if crashed then
    budget.forget(job) -- its worker is dead, and so is the call that it had in flight
  end
  local route = string.sub(job, 1, 3) == 'id:' and 'get' or 'list'
  local free, opens = budget.room(route)
  if taken == wanted then
    sleep = 0
    break
  elseif free < 1 then
    sleep = opens - now
    break
  end
  local stored = redis.call('HGET', KEYS[2], job)
  if stored then
    if crashed and #stored >= 14 then
      local generation, crashes = struct.unpack('>I4I2', stored)
      stored = struct.pack('>I4I2', generation, math.min(crashes + 1, 65535)) .. string.sub(stored, 7)
      redis.call('HSET', KEYS[2], job, stored)
    end
    redis.call('ZADD', KEYS[1], fence, job)
    budget.take(job, now + life)
    taken = taken + 1
    reply[#reply + 1] = job
    reply[#reply + 1] = string.format('%.1f', fence)
    reply[#reply + 1] = stored
  else
    redis.call('ZREM', KEYS[1], job) -- a job without a ticket: nothing can be known of it
  end
end

if sleep == 0 and redis.call('LLEN', KEYS[6]) == 0 then
  redis.call('LPUSH', KEYS[6], '1') -- more is due than one worker takes: wake another
  redis.call('PEXPIRE', KEYS[6], 60000)
end
if not sleep then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  sleep = first[2] and math.max(0, tonumber(first[2]) - now) or -1
end
reply[2] = math.ceil(sleep)
return reply
