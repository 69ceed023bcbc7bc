-- Plan a look at each listed deployment of which nobody has told us.
-- KEYS     1 round  2 tickets  3 looks  4 their tickets  5 failed  then one for each: its published mark
-- ARGV     1 token of who holds the round  2 lease (ms)  3 life of the looks (ms)  4 "dry" to count only
--          then threes: deployment id, its job if it is sought by its version, its ticket
-- Returns  how many were planned, or -1: the round is another's by now
-- Atomic   one that a webhook tells of meanwhile is not planned as well; the lease goes on.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return -1
end
redis.call('HSET', KEYS[1], 'until', now + tonumber(ARGV[2]))

local function is_known(mark, id, sought)
  -- Without a record it was left out, when nobody wanted it yet.
  return (redis.call('HGET', mark, 'revision') or '0') ~= '0'
    or redis.call('HEXISTS', KEYS[2], 'id:' .. id) == 1
    or redis.call('HEXISTS', KEYS[2], sought) == 1
    or redis.call('HEXISTS', KEYS[4], id) == 1
    or redis.call('ZSCORE', KEYS[5], 'id:' .. id) ~= false
end

local planned = 0
for nth = 1, #KEYS - 5 do
  local at = 4 + (nth - 1) * 3
  local id, sought, ticket = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  if not is_known(KEYS[5 + nth], id, sought) then
    planned = planned + 1
    if ARGV[4] ~= 'dry' then
      redis.call('ZADD', KEYS[3], now, id)
      redis.call('HSET', KEYS[4], id, ticket)
      redis.call('PEXPIRE', KEYS[3], ARGV[3])
      redis.call('PEXPIRE', KEYS[4], ARGV[3])
    end
  end
end
return planned
