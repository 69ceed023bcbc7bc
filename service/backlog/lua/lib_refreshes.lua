-- Define how the next refresh of a deployment is scheduled. Placed before scripts that schedule one.
-- KEYS     none of its own: schedule_refresh takes a table with the names of the keys:
--          published, refreshes, refresh_tickets
-- ARGV     none of its own
-- Returns  nothing; defines schedule_refresh(keys, id, plan, now), where plan holds since (ms), due (ms,
--          or "" for no further refresh), ticket and ttl (ms)
-- Atomic   a ticket ends and the next refresh is scheduled in one script, so a crash cannot separate them.
local function schedule_refresh(keys, id, plan, now)
  local since = tonumber(redis.call('HGET', keys.published, 'since') or '0')
  if tonumber(plan.since) < since then
    return -- a later webhook of this deployment has scheduled its own refreshes meanwhile
  elseif plan.due == '' then
    redis.call('ZREM', keys.refreshes, id)
    redis.call('HDEL', keys.refresh_tickets, id)
  else
    redis.call('HSET', keys.published, 'since', plan.since)
    redis.call('ZADD', keys.refreshes, plan.due, id)
    redis.call('HSET', keys.refresh_tickets, id, plan.ticket)
    redis.call('PEXPIRE', keys.refreshes, plan.ttl)
    redis.call('PEXPIRE', keys.refresh_tickets, plan.ttl)
  end
end
