-- Begin to list a scope, if it is due and no other process lists it.
-- KEYS     1 state of the scope
-- ARGV     1 token of the caller  2 lease (ms)  3 ms between two runs  4 TTL of the state (ms)
-- Returns  {"begun", now, checkpoint or "", out of view or ""} | {"wait", ms}; now and checkpoint are times
--          of the server's own clock, because LaunchDarkly's times are compared with them
-- Atomic   one process at a time lists a scope, and no process repeats a run that has just ended.
local now, _, server_now = now_ms()
local state = redis.call('HMGET', KEYS[1], 'holder', 'until', 'ran', 'checkpoint', 'out_of_view')
local holder, ends, ran = state[1], tonumber(state[2] or '0'), tonumber(state[3] or '0')
local checkpoint = tonumber(state[4] or '')
if checkpoint then -- the server's clock may have been set back: what ended since was not listed yet
  checkpoint = math.min(checkpoint, server_now)
end
if holder and holder ~= ARGV[1] and ends > now then
  return { 'wait', math.ceil(ends - now) }
elseif ran + tonumber(ARGV[3]) > now then
  return { 'wait', math.ceil(ran + tonumber(ARGV[3]) - now) }
end
redis.call('HSET', KEYS[1], 'holder', ARGV[1], 'until', now + tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'begun', server_now, checkpoint and string.format('%.0f', checkpoint) or '', state[5] or '' }
