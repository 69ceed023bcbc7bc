-- Delete failed tickets and parked events that a person has chosen. (Loaded after lib_failures.lua.)
-- KEYS     1 failed  2 failed data  3 reply of this call  4 counts  5 failed raw
-- ARGV     pairs: job, SHA-1 of its failure record as it was read ("" if there was none)
-- Returns  one element per pair: "dropped" | "gone" (deleted or failed again since it was read)
-- Atomic   only the record that the person saw is deleted, never one that was stored later.
-- Flags    allow-oom: it frees memory.
local REPLY_TTL = 60000 -- ms for which a repeated call gets the same reply
local reply = redis.call('GET', KEYS[3])
if reply then
  redis.call('PEXPIRE', KEYS[3], REPLY_TTL) -- a write, so that the group commit makes the first one durable
  return cmsgpack.unpack(reply)
end
local keys = { failed = KEYS[1], failed_data = KEYS[2], counts = KEYS[4], failed_raw = KEYS[5] }
local statuses = {}
for i = 1, #ARGV, 2 do
  local job, stored = ARGV[i], redis.call('HGET', keys.failed_data, ARGV[i])
  local digest = stored and redis.sha1hex(stored) or ''
  local status = 'gone'
  if digest == ARGV[i + 1] and redis.call('ZSCORE', keys.failed, job) then
    drop_failure(keys, job)
    status = 'dropped'
  end
  statuses[#statuses + 1] = status
end
redis.call('SET', KEYS[3], cmsgpack.pack(statuses), 'PX', REPLY_TTL)
return statuses
