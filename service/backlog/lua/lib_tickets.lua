-- Define how a ticket is put into the backlog and how a lease on it ends. Placed before scripts that do either.
-- KEYS     none of its own: each function takes a table with the names of the keys that it uses:
--          backlog, tickets, wakeup, calls, waiting, counts
-- ARGV     none of its own
-- Returns  nothing; defines put_ticket(keys, job, stored, ticket, now), where stored is what the job
--          holds so far; release_calls(keys, job); end_ticket(keys, job, stored, generation, now) ->
--          true, or false: a newer event arrived meanwhile, so the ticket stays and is due now; and
--          is_superseded(stored, generation): whether a newer event arrived meanwhile
-- Atomic   a newer event is checked for and the ticket is changed in one script: no event is lost.
-- Redis rolls nothing back when a command fails (a key of a wrong type, a command that the ACL denies).
-- So the end of a lease is the last write that matters: until then the same call can be repeated.
local function put_ticket(keys, job, stored, ticket, now)
  local generation = 1
  if stored and #stored >= 4 then
    generation = struct.unpack('>I4', stored) % 4294967295 + 1
  end
  local score = redis.call('ZSCORE', keys.backlog, job)
  if not score or tonumber(score) % 1 == 0 then -- a fraction of a millisecond marks a lease: it stays
    redis.call('ZADD', keys.backlog, now, job)
  end
  redis.call('HSET', keys.tickets, job, struct.pack('>I4I2d', generation, 0, now) .. ticket)
end

-- Only the holder of the lease may do this: afterwards the call may belong to the next holder.
local function release_calls(keys, job)
  redis.call('ZREM', keys.calls, job)
  if keys.waiting then -- a deployment that was found waits for no call: its caller passes no such key
    redis.call('ZREM', keys.waiting, job)
  end
  redis.call('HINCRBY', keys.counts, 'leased', -1)
end

local function is_superseded(stored, generation)
  return stored and #stored >= 4 and struct.unpack('>I4', stored) ~= tonumber(generation)
end

local function end_ticket(keys, job, stored, generation, now)
  if is_superseded(stored, generation) then
    redis.call('ZADD', keys.backlog, now, job)
    wake(keys.wakeup)
    return false
  end
  redis.call('HDEL', keys.tickets, job)
  redis.call('ZREM', keys.backlog, job)
  return true
end
