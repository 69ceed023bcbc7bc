-- Append one record, unless it is filtered or unchanged, and settle its ticket.
-- (Loaded after backlog/lua/lib_tickets.lua, lib_refreshes.lua and lib_history.lua.)
-- KEYS     1 backlog  2 tickets  3 stream  4 published  5 calls  6 budget  7 wakeup
--          8 counts  9 milestones  10 refreshes  11 tickets of refreshes
--          12 history of the application in the environment
-- ARGV     1 job  2 fence  3 generation  4 deployment id  5 digest  6 TTL of published and history (ms)
--          7 data before the revision  8 data after it  9 time from which refreshes are planned (ms)
--          10 when the next one is due (ms) or ""  11 its ticket  12 "append", "filter" or "share":
--          the last two append nothing  13 first and 14 last of the events of the ticket that end here
--          15 field of the source in published, or ""  16 its event
--          17 line of the deployment in the history (history.py), or "" if it takes no part
--          then fields and values of the entry
-- Returns  {"published" | "unchanged" | "filtered", revision} | {"lease_lost", 0}
--          | {"taken", revision}: the source reported this deployment by another event, and nothing was done
-- Atomic   a record without its settlement would be appended again. A settlement without its record
--          would lose the record and the next refresh. Only the holder of the lease may do any of it.
-- Redis rolls nothing back when a command fails (a key of a wrong type, a command that the ACL denies).
-- A failure before XADD leaves no record; the next call finds the deployment in the history and adds it only
-- once. XADD is followed at once by the mark of this lease, with an HSET that cannot fail: the key was read and
-- HSET was used before. A failure after it is made good by the next call with the same fence, which finds the
-- mark and appends nothing. Such a failure may lose a milestone or a rate, nothing else.
local REPEATED_MS = 10000 -- a sender that names no time repeats its event within this time
local MILESTONE = 64 -- records between two milestones: counting unread records reads at most this many
local COUNTED_TOGETHER = 8 -- records after which the rate is measured, because each time costs a read and a write
local keys = {
  backlog = KEYS[1], tickets = KEYS[2], published = KEYS[4], calls = KEYS[5], wakeup = KEYS[7],
  counts = KEYS[8], refreshes = KEYS[10], refresh_tickets = KEYS[11],
}
local job, fence, id, digest, ttl = ARGV[1], ARGV[2], ARGV[4], ARGV[5], ARGV[6]
local settled_field, mode, now = 'settled:' .. job, ARGV[12], (now_ms())
local last = redis.call('HMGET', keys.published, 'revision', 'digest', settled_field, ARGV[15], 'change', 'since')
local last_fence, last_status, last_revision = string.match(last[3] or '', '^(%S+) (%S+) (%d+)$')
-- The digest of content with flag events is content.events. The same content without them is no news: this attempt
-- did not ask for them, or in vain.
local has_digest = last[2] == digest or (digest ~= '' and string.sub(last[2] or '', 1, #digest + 1) == digest .. '.')
local is_leased = tonumber(redis.call('ZSCORE', keys.backlog, job) or '0') == tonumber(fence)
local stored = redis.call('HGET', keys.tickets, job)

-- Measure the tickets settled per second, weighted over the last half minute: add.lua computes Retry-After from it.
local function measure_rate(appended)
  local settled = appended and COUNTED_TOGETHER or 1
  if appended and appended % COUNTED_TOGETHER ~= 0 then
    return
  end
  local measured = redis.call('HMGET', KEYS[6], 'settled_per_s', 'settled_at')
  local elapsed = math.max(1, now - (measured[2] or 0))
  local weight = math.exp(-elapsed / 30000)
  local per_s = (measured[1] or 0) * weight + settled * 1000 / elapsed * (1 - weight)
  redis.call('HSET', KEYS[6], 'settled_per_s', string.format('%.4f', per_s), 'settled_at', string.format('%.0f', now))
  redis.call('PEXPIRE', KEYS[6], 86400000)
end

local function settle(position)
  release_calls(keys, job)
  local appended = position and redis.call('HINCRBY', keys.counts, 'appended', 1)
  end_ticket(keys, job, plan_end(stored, ARGV[3], ARGV[13], ARGV[14]), now)
  if appended and appended % MILESTONE == 0 then
    redis.call('ZADD', KEYS[9], appended, position)
  end
  measure_rate(appended)
end

if last_fence == fence then -- this call was executed before: its reply was lost, or it failed after the mark
  if is_leased then
    local newest = redis.call('XREVRANGE', KEYS[3], '+', '-', 'COUNT', 1)[1]
    settle(last_status == 'published' and newest and newest[1])
  end
  redis.call('PEXPIRE', keys.published, ttl) -- a write, so that the group commit makes the first one durable
  return { last_status, tonumber(last_revision) }
elseif not is_leased then
  return { 'lease_lost', 0 }
end

-- A source reports a deployment once. If this is another event of the source, it is of another deployment.
local function is_of_another_deployment(before, event)
  local outcome, kind, time = string.match(before, '^(%S+) (%S+) (%d+)$')
  local this_outcome, this_kind, this_time = string.match(event, '^(%S+) (%S+) (%d+)$')
  local have_times = kind == 'ended' and this_kind == 'ended'
  return outcome ~= this_outcome or math.abs(time - this_time) > (have_times and SAME_SENDER_MS or REPEATED_MS)
end
local is_found = mode == 'append' and string.sub(job, 1, 3) ~= 'id:'
if is_found and last[4] and is_of_another_deployment(last[4], ARGV[16]) then
  return { 'taken', tonumber(last[1] or '0') }
end

local fields = {}
if mode ~= 'share' then
  fields = schedule_refresh(keys, id, { since = ARGV[9], due = ARGV[10], ticket = ARGV[11], ttl = ttl }, last[6])
end
local change, mark = nil, last[5] or ''
if mode == 'append' and ARGV[17] ~= '' then
  change, mark = update_history(KEYS[12], ARGV[17], mark, has_digest, now, ttl)
elseif mode == 'append' and not has_digest then
  mark = ''
end
local has_other_change = change and string.sub(mark, MARKED_AT) ~= string.sub(last[5] or '', MARKED_AT)

local revision, status, position = tonumber(last[1] or '0'), 'unchanged', nil
if mode == 'share' then
  digest = last[2] or ''
elseif mode == 'filter' then
  status, digest = 'filtered', last[2] or '' -- if a filter includes it later, its content counts as new
elseif has_digest and not has_other_change then
  digest = last[2]
else
  status, revision = 'published', revision + 1
  local number = string.format('%d', revision)
  local data = ARGV[7] .. number .. ',"change":' .. (change or 'null') .. ARGV[8]
  ARGV[#ARGV + 1], ARGV[#ARGV + 2] = 'data', data
  if not fields[1] then -- no refresh was scheduled: this is the first HSET
    redis.call('HSET', keys.published, 'digest', last[2] or '')
  end
  position = redis.call('XADD', KEYS[3], '*', 'id', id .. ':' .. number, 'revision', number, unpack(ARGV, 18))
end
if ARGV[15] ~= '' then
  fields[#fields + 1], fields[#fields + 2] = ARGV[15], ARGV[16]
end
redis.call('HSET', keys.published, 'revision', revision, 'digest', digest,
  settled_field, string.format('%s %s %d', fence, status, revision), 'change', mark, unpack(fields))
redis.call('PEXPIRE', keys.published, ttl)
settle(position)
return { status, revision }
