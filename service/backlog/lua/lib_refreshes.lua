-- When is a deployment looked at again? Put before every script that plans a look.
-- KEYS     none of its own: plan_look is given the names of mark, looks and their tickets
-- ARGV     none of its own
-- Returns  nothing; defines plan_look(keys, id, since, due, ticket, life); due "": no more looks
-- Atomic   a ticket is ended and its next look planned at once: no crash comes between.
local function plan_look(keys, id, since, due, ticket, life)
  local clock, known = redis.call('TIME'), tonumber(redis.call('HGET', keys.mark, 'since') or '0')
  local ahead = known > clock[1] * 1000 + 1000 -- the clock was set back: it says nothing
  if tonumber(since) < known and not ahead then
    return -- a later webhook of the same deployment has planned its own looks meanwhile
  elseif due == '' then
    redis.call('ZREM', keys.looks, id)
    redis.call('HDEL', keys.tickets, id)
  else
    redis.call('HSET', keys.mark, 'since', since)
    redis.call('ZADD', keys.looks, due, id)
    redis.call('HSET', keys.tickets, id, ticket)
    redis.call('PEXPIRE', keys.looks, life)
    redis.call('PEXPIRE', keys.tickets, life)
  end
end
