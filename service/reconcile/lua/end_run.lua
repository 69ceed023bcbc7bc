-- Store the checkpoint of a run and release its lease.
-- KEYS     1 state of the scope
-- ARGV     1 token of the holder  2 new checkpoint, or "" to leave it  3 "ended" | "released" | "continue"
--          4 deployments that are in progress since before the checkpoint (JSON), or "" to leave them
-- Returns  1, or 0: another process holds the run now, and nothing was changed
-- Atomic   only the holder of the run may move the checkpoint.
-- Flags    allow-oom: it releases a run.
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then
  return 0
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'checkpoint', ARGV[2])
end
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'out_of_view', ARGV[4])
end
if ARGV[3] == 'ended' then
  redis.call('HSET', KEYS[1], 'ran', (now_ms()))
end
if ARGV[3] ~= 'continue' then
  redis.call('HDEL', KEYS[1], 'holder', 'until')
end
return 1
