-- Define how the next refresh of a deployment is scheduled. Placed before scripts that schedule one.
-- KEYS     none of its own: schedule_refresh takes a table with the names of the keys:
--          refreshes, refresh_tickets
-- ARGV     none of its own
-- Returns  nothing; defines schedule_refresh(keys, id, plan, stored), where plan holds since (ms), due (ms,
--          or "" for no further refresh), ticket and ttl (ms), and stored is the field since of published. It
--          returns the fields and values that the caller stores there
-- Atomic   a ticket ends and the next refresh is scheduled in one script, so a crash cannot separate them.
local RENEWED_MS = 60000 -- the TTLs of the refreshes are set again after this time: one read is cheaper than two writes
local function schedule_refresh(keys, id, plan, stored)
  if tonumber(plan.since) < tonumber(stored or '0') then
    return {} -- a later webhook of this deployment has scheduled its own refreshes meanwhile
  elseif plan.due == '' then
    redis.call('ZREM', keys.refreshes, id)
    redis.call('HDEL', keys.refresh_tickets, id)
    return {}
  end
  redis.call('ZADD', keys.refreshes, plan.due, id)
  redis.call('HSET', keys.refresh_tickets, id, plan.ticket)
  if redis.call('PTTL', keys.refresh_tickets) < plan.ttl - RENEWED_MS then
    redis.call('PEXPIRE', keys.refreshes, plan.ttl)
    redis.call('PEXPIRE', keys.refresh_tickets, plan.ttl)
  end
  return { 'since', plan.since }
end
