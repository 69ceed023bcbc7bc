-- How does a ticket end? Put before every script by which a worker ends one.
-- KEYS     none of its own: end_ticket is given the names of backlog, tickets and bell
-- ARGV     none of its own
-- Returns  nothing; defines end_ticket(keys, job, generation, now) -> true, or false: a newer event came
--          meanwhile, so the ticket stays and is due now
-- Atomic   a newer event is looked for and the ticket taken away at once: none is lost in between.
local function end_ticket(keys, job, generation, now)
  local stored = redis.call('HGET', keys.tickets, job)
  if stored and #stored >= 4 and struct.unpack('>I4', stored) ~= tonumber(generation) then
    redis.call('ZADD', keys.backlog, now, job)
    if redis.call('LLEN', keys.bell) == 0 then
      redis.call('LPUSH', keys.bell, '1')
      redis.call('PEXPIRE', keys.bell, 60000)
    end
    return false
  end
  redis.call('ZREM', keys.backlog, job)
  redis.call('HDEL', keys.tickets, job)
  return true
end
