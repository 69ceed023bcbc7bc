-- Schedule a refresh for each listed deployment that no webhook reported.
-- KEYS     1 state of the scope  2 tickets  3 refreshes  4 tickets of refreshes  5 failed
--          then one per deployment: its published hash
-- ARGV     1 token of the holder  2 lease (ms)  3 TTL of the refreshes (ms)  4 "dry" to count only
--          5 "defer" to leave a deployment for later while a ticket of its version waits
--          then threes: deployment id, the job that would find it by version, its ticket
-- Returns  {number scheduled, then the number of each deployment that is left for later}
--          | {-1}: another process holds the run now
-- Atomic   a deployment that a webhook reports meanwhile is not scheduled too; the lease is extended.
local now = now_ms()
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return { -1 }
end
redis.call('HSET', KEYS[1], 'until', now + tonumber(ARGV[2]))

local function is_known(published, id)
  -- Revision 0 has no record: a filter excluded the deployment, which may be included by now.
  return (redis.call('HGET', published, 'revision') or '0') ~= '0'
    or redis.call('HEXISTS', KEYS[2], 'id:' .. id) == 1
    or redis.call('HEXISTS', KEYS[4], id) == 1
    or redis.call('ZSCORE', KEYS[5], 'id:' .. id) ~= false
end

local result = { 0 }
for nth = 1, #KEYS - 5 do
  local offset = 5 + (nth - 1) * 3
  local id, find_job, ticket = ARGV[offset + 1], ARGV[offset + 2], ARGV[offset + 3]
  local is_unknown = not is_known(KEYS[5 + nth], id)
  if is_unknown and ARGV[5] == 'defer' and redis.call('HEXISTS', KEYS[2], find_job) == 1 then
    result[#result + 1] = nth -- the ticket may find this deployment, or another one of the version
  elseif is_unknown then
    result[1] = result[1] + 1
    if ARGV[4] ~= 'dry' then
      redis.call('ZADD', KEYS[3], now, id)
      redis.call('HSET', KEYS[4], id, ticket)
      if result[1] == 1 then
        redis.call('PEXPIRE', KEYS[3], ARGV[3])
        redis.call('PEXPIRE', KEYS[4], ARGV[3])
      end
    end
  end
end
return result
