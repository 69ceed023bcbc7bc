-- Lease the tickets that are due, as many as calls may be made now. (enrich/room.lua stands before.)
-- KEYS     1 backlog  2 tickets  3 budget  4 calls  5 callers  6 bell  7 mark of this act
-- ARGV     1 how many at most  2 lease (ms)  3 life of a call (ms)  4 share of the limit that is ours
-- Returns  {now, ms to sleep, job, fence, ticket, job, fence, ticket, ...}
-- Atomic   two workers never lease one ticket, and no ticket is handed out without its call.
-- A score is a time in ms: a whole one says when a ticket is due; one with a part of a millisecond
-- is a lease and says when that ends. Due again after a lease means that its worker died.
local FURTHER = 100 -- jobs looked at behind those wanted: one route used up must not hold up the other

local wanted, lease, life = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- The part is the microsecond: leases of one ticket begun in the same millisecond differ too.
local fence = now + lease + (clock[2] % 1000 + 1) / 1024
local reply, taken, sleep = { now, 0 }, {}, nil

local function hand_out(job, stored)
  reply[#reply + 1] = job
  reply[#reply + 1] = string.format('%.10f', fence)
  reply[#reply + 1] = stored
end

local done = redis.call('GET', KEYS[7])
if done then -- this very act was done before; only its reply was lost
  local jobs = cmsgpack.unpack(done)
  fence = tonumber(table.remove(jobs))
  for _, job in ipairs(jobs) do
    if tonumber(redis.call('ZSCORE', KEYS[1], job) or '0') == fence then
      hand_out(job, redis.call('HGET', KEYS[2], job) or '')
    end
  end
  return reply
end

local budget = open_budget(KEYS[3], KEYS[4], KEYS[5], now, tonumber(ARGV[4]))
local due = redis.call(
  'ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, wanted + FURTHER
)

for i = 1, #due, 2 do
  local job, crashed = due[i], tonumber(due[i + 1]) % 1 ~= 0
  if crashed then
    budget.forget(job) -- its worker is dead, and so is the call that it had in flight
  end
  local stored = redis.call('HGET', KEYS[2], job)
  local free, opens = budget.room(string.sub(job, 1, 3) == 'id:' and 'get' or 'list')
  if not stored then
    redis.call('ZREM', KEYS[1], job) -- a job without a ticket: nothing can be known of it
  elseif free < 1 then
    sleep = math.min(sleep or math.huge, opens - now)
  elseif #taken == wanted then
    sleep = 0
    break
  else
    if crashed and #stored >= 14 then
      local generation, crashes = struct.unpack('>I4I2', stored)
      stored = struct.pack('>I4I2', generation, math.min(crashes + 1, 65535)) .. string.sub(stored, 7)
      redis.call('HSET', KEYS[2], job, stored)
    end
    redis.call('ZADD', KEYS[1], fence, job)
    budget.take(job, now + life)
    taken[#taken + 1] = job
    hand_out(job, stored)
  end
end

if #taken > 0 then
  taken[#taken + 1] = string.format('%.10f', fence)
  redis.call('SET', KEYS[7], cmsgpack.pack(taken), 'PX', lease)
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
