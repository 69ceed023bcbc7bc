-- Append one record, or leave it out, and forget its ticket. (backlog/ending.lua and plan.lua stand before.)
-- KEYS     1 backlog  2 tickets  3 stream  4 published  5 calls  6 budget  7 bell
--          8 counts  9 milestones  10 looks  11 their tickets
-- ARGV     1 job  2 fence  3 generation  4 deployment id  5 digest  6 life of the mark (ms)
--          7 data before the revision  8 data after it  9 since when looks are planned (ms)
--          10 when the next one is due (ms) or ""  11 its ticket  12 "append", or
--          "" when nothing is to be appended  then fields and values of the entry
-- Returns  {"published" | "unchanged" | "filtered", revision} | {"lease_lost", 0}
-- Atomic   a record without its settling would be appended again; a settling without its record
--          would lose it, and the next look with it. Only who holds the lease may do any of it.
local MILESTONE = 64 -- records from one to the next: who counts those unread looks at no more
local job, held, digest = ARGV[1], tonumber(ARGV[2]), ARGV[5]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local last = redis.call('HMGET', KEYS[4], 'revision', 'digest', 'settled:' .. job)
local revision = tonumber(last[1] or '0')

if tonumber(redis.call('ZSCORE', KEYS[1], job) or '0') ~= held then
  local fence, fate, number = string.match(last[3] or '', '^(%S+) (%S+) (%d+)$')
  if fence == ARGV[2] then -- this very act was done before; only its reply was lost
    redis.call('PEXPIRE', KEYS[4], ARGV[6]) -- a write, so that a durable group covers the first too
    return { fate, tonumber(number) }
  end
  return { 'lease_lost', 0 }
end

local fate = 'unchanged'
if ARGV[12] == '' then
  fate, digest = 'filtered', last[2] or '' -- were it wanted again, its content would be news
elseif last[2] ~= digest then
  fate = 'published'
  revision = revision + 1
  local number = string.format('%d', revision)
  local fields = { 'id', ARGV[4] .. ':' .. number, 'revision', number }
  for i = 13, #ARGV do
    fields[#fields + 1] = ARGV[i]
  end
  fields[#fields + 1] = 'data'
  fields[#fields + 1] = ARGV[7] .. number .. ARGV[8]
  local id = redis.call('XADD', KEYS[3], '*', unpack(fields))
  local appended = redis.call('HINCRBY', KEYS[8], 'appended', 1)
  if appended % MILESTONE == 0 then
    redis.call('ZADD', KEYS[9], appended, id)
  end
end
local act = table.concat({ ARGV[2], fate, string.format('%d', revision) }, ' ')
redis.call('HSET', KEYS[4], 'revision', revision, 'digest', digest, 'settled:' .. job, act)
plan_look({ mark = KEYS[4], looks = KEYS[10], tickets = KEYS[11] }, ARGV[4], ARGV[9], ARGV[10], ARGV[11], ARGV[6])
redis.call('PEXPIRE', KEYS[4], ARGV[6])

end_ticket({ backlog = KEYS[1], tickets = KEYS[2], bell = KEYS[7] }, job, ARGV[3], now)
redis.call('ZREM', KEYS[5], job)
redis.call('HINCRBY', KEYS[8], 'leased', -1)

-- how many tickets end in a second, weighed over the last half minute: told to senders we refuse
local pace = redis.call('HMGET', KEYS[6], 'settled_per_s', 'settled_at')
local since = math.max(0, now - tonumber(pace[2] or '0'))
local rate = tonumber(pace[1] or '0') * math.exp(-since / 30000) + 1 / 30
redis.call('HSET', KEYS[6], 'settled_per_s', string.format('%.4f', rate), 'settled_at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[6], 86400000)
return { fate, revision }
