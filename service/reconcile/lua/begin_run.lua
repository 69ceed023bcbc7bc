-- Begin to list a scope, if it is time and nobody else is at it.
-- KEYS     1 round
-- ARGV     1 token of who asks  2 lease (ms)  3 ms between two rounds  4 life of what is known (ms)
-- Returns  {"begun", now, checkpoint or ""} | {"wait", ms}
-- Atomic   one process at a time lists a scope, and none begins what another has just ended.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local told = redis.call('HMGET', KEYS[1], 'holder', 'until', 'ran', 'checkpoint')
local holder, ends, ran = told[1], tonumber(told[2] or '0'), tonumber(told[3] or '0')
local checkpoint = tonumber(told[4] or '')
if ran > now or (checkpoint or 0) > now then -- the clock was set back, or another server's is behind
  ran, checkpoint = 0, checkpoint and math.min(checkpoint, now)
end
if holder and holder ~= ARGV[1] and ends > now and ends <= now + 2 * ARGV[2] then
  return { 'wait', math.ceil(ends - now) }
elseif ran + tonumber(ARGV[3]) > now then
  return { 'wait', math.ceil(ran + tonumber(ARGV[3]) - now) }
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', now + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'begun', now, checkpoint and string.format('%.0f', checkpoint) or '' }
