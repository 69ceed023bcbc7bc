-- Define how a ticket is put into the backlog and how a lease on it ends. Placed before scripts that do either.
-- (Loaded after lib_lines.lua.)
-- KEYS     none of its own: each function takes a table with the names of the keys that it uses:
--          backlog, tickets, wakeup, calls, waiting, counts
-- ARGV     none of its own
-- Returns  nothing; defines put_ticket(keys, job, stored, ticket, now), where stored is what the job
--          holds so far and ticket is one event (msgpack); release_calls(keys, job);
--          plan_end(stored, generation, first, last, has_failed), the end of the events from first to last, and
--          end_ticket(keys, job, plan, now), which carries it out; is_superseded(stored, generation):
--          whether a newer event arrived meanwhile; is_repeat(job, events, ticket, now);
--          is_ticket_full(keys, job, stored, ticket, now); and for failure records
--          read_failed_events(failure), join_failure(failure, list, earlier) and
--          requeue_failed_events(keys, job, stored, events, now)
-- Atomic   a newer event is checked for and the ticket is changed in one script: no event is lost.
-- Redis rolls nothing back when a command fails (a key of a wrong type, a command that the ACL denies).
-- So the end of a lease is the last write that matters: until then the same call can be repeated.
--
-- A stored ticket is a header (generation, crashes, when its first event was queued) and its first event.
-- Several deployments of one version share a job, so their events share a ticket. A list follows the first
-- event then: each with its length and when it was queued, then the length of the list, then LIST_END.
-- The bytes of an event are never changed except by the holder of the lease, and newer events are
-- appended. So an event keeps its place in the list while its ticket is leased.
local MAX_EVENTS = 16 -- of one ticket that an add may join, and of one failure record
local REPEATED = 1048576 -- is added to the generation when an event is repeated during a lease
local LIST_END, REFRESH_END = 193, 200 -- the last byte of a ticket; no other ticket ends with one of these
local SAME_SENDER_MS = 1000 -- one sender repeats its event: the time is the same, except for rounding
local TWO_SENDERS_MS = 300000 -- two senders report one deployment
local NO_TIME_MS = 900000 -- an event without a time may be any of this quarter of an hour

local function read_event_list(list) -- { queued_at, event } of each, or nil if the bytes are no list
  local events, position = {}, 1
  while position <= #list do
    if position + 11 > #list then
      return nil
    end
    local length, queued_at = struct.unpack('>I4d', list, position)
    events[#events + 1] = { queued_at, string.sub(list, position + 12, position + 11 + length) }
    position = position + 12 + length
  end
  return events
end

local function join_event_list(events)
  local parts = {}
  for i, event in ipairs(events) do
    parts[i] = struct.pack('>I4d', #event[2], event[1]) .. event[2]
  end
  local list = table.concat(parts)
  return list .. struct.pack('>I4', #list) .. string.char(LIST_END)
end

local function last_event_list(bytes) -- the list at the end of these bytes, and where it begins; or nil
  if #bytes < 5 or string.byte(bytes, -1) ~= LIST_END then
    return nil
  end
  local first = #bytes - 4 - struct.unpack('>I4', bytes, #bytes - 4)
  local list = first > 0 and read_event_list(string.sub(bytes, first, #bytes - 5))
  return list or nil, first
end

local function read_events(stored)
  local _, _, queued_at = struct.unpack('>I4I2d', stored)
  local others, first = last_event_list(stored)
  local events = { { queued_at, string.sub(stored, 15, others and first - 1 or -1) } }
  for _, event in ipairs(others or {}) do
    events[#events + 1] = event
  end
  return events
end

local function join_events(generation, crashes, events)
  local stored = struct.pack('>I4I2d', generation, crashes, events[1][1]) .. events[1][2]
  if #events == 1 then
    return stored
  end
  return stored .. join_event_list({ unpack(events, 2) })
end

-- cmsgpack does not support binary data, so only the fields before it are decoded.
local function read_event_fields(event)
  local start = string.byte(event, 1) == 220 and 3 or 1
  local ok, _, source, delivery, outcome, _, _, _, _, _, time = pcall(cmsgpack.unpack_limit, event, 9, start)
  return ok and { source = source, delivery = delivery, outcome = outcome, time = tonumber(time) } or {}
end

local function is_same_event(fields, queued_at, newer, now)
  if fields.source == newer.source and fields.delivery == newer.delivery then
    return true
  elseif fields.outcome ~= newer.outcome then
    return false
  end
  local distance = math.abs((fields.time or queued_at) - (newer.time or now))
  if not fields.time or not newer.time then
    return distance <= NO_TIME_MS
  end
  return distance <= (fields.source == newer.source and SAME_SENDER_MS or TWO_SENDERS_MS)
end

-- Whether an event says what one of these says already. The second result: whether its outcome is new.
local function is_repeat(job, events, ticket, now)
  local newer, has_new_outcome = read_event_fields(ticket), true
  for i, event in ipairs(events) do
    local fields = read_event_fields(event[2])
    has_new_outcome = has_new_outcome and fields.outcome ~= newer.outcome
    if string.sub(job, 1, 3) ~= 'id:' then
      if is_same_event(fields, event[1], newer, now) then
        return true, false
      end
    elseif i == #events and fields.outcome == newer.outcome then
      return true, false -- the id says that it is the same deployment; its last outcome counts
    end
  end
  return false, has_new_outcome
end

-- Whether a ticket is full: it holds as many events as it may, and this one repeats none of them.
local function is_ticket_full(keys, job, stored, ticket, now)
  local is_list = stored and #stored > 14 and string.byte(stored, -1) == LIST_END
  if not is_list or not redis.call('ZSCORE', keys.backlog, job) then
    return false
  end
  local events = read_events(stored)
  return #events >= MAX_EVENTS and not is_repeat(job, events, ticket, now)
end

-- A repeated event joins the ticket and changes nothing, but during a lease the ticket is tried once more.
-- Another event of the job is appended. It makes the ticket due at once only if its outcome is new: a sender
-- that repeats itself must not undo the backoff.
local function put_ticket(keys, job, stored, ticket, now)
  local score = redis.call('ZSCORE', keys.backlog, job)
  score = score and tonumber(score)
  local keeps_score = score and (score < LINES.retry or score % 1 ~= 0) -- its place among first attempts, or its lease
  local generation, crashes, events, is_due = 1, 0, {}, true
  if stored and #stored >= 4 then
    local current = struct.unpack('>I4', stored)
    generation = current - current % REPEATED + current % REPEATED % (REPEATED - 1) + 1
  end
  if score and stored and #stored > 14 and string.byte(stored, -1) ~= REFRESH_END then
    events = read_events(stored)
    local is_known, has_new_outcome = is_repeat(job, events, ticket, now)
    if is_known then
      if score % 1 ~= 0 then -- leased: what the worker fetched may be older than the repetition
        local repeated = (struct.unpack('>I4', stored) + REPEATED) % 4294967296
        redis.call('HSET', keys.tickets, job, struct.pack('>I4', repeated) .. string.sub(stored, 5))
      end
      return
    end
    crashes = struct.unpack('>I2', stored, 5)
    is_due = has_new_outcome
  end
  events[#events + 1] = { now, ticket }
  local joined = join_events(generation, crashes, events)
  if is_due and not keeps_score then
    redis.call('ZADD', keys.backlog, line_score(job, joined, now, false), job)
  end
  redis.call('HSET', keys.tickets, job, joined)
end

-- The failed events of a job that finds its deployments by version: its failure record ends with the list of
-- them. Nil for any other record.
local function read_failed_events(failure)
  return failure and last_event_list(failure) or nil
end

-- The record holds the newest events. The second result: whether the oldest one is dropped.
local function join_failure(failure, list, earlier)
  local events = last_event_list(list) or {}
  for _, event in ipairs(read_failed_events(earlier) or {}) do
    events[#events + 1] = event
  end
  local kept = { unpack(events, 1, MAX_EVENTS) }
  return failure .. join_event_list(kept), #events > #kept
end

-- Queue the failed events of a job as they were. The caller drops the failure record afterwards.
local function requeue_failed_events(keys, job, stored, events, now)
  for _, event in ipairs(events or {}) do
    put_ticket(keys, job, stored, event[2], now)
    stored = redis.call('HGET', keys.tickets, job)
  end
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
  return stored and #stored >= 4 and (struct.unpack('>I4', stored) - tonumber(generation)) % REPEATED ~= 0
end

local function is_repeated(stored, generation)
  return stored and #stored >= 4 and struct.unpack('>I4', stored) ~= tonumber(generation)
end

-- If an event was repeated meanwhile, the whole ticket stays; a failed event ends nevertheless (has_failed).
-- Other events that arrived meanwhile stay. has_ended: none stays. is_removed: the events from first to last are
-- part of a list, and the list without them is remaining.
local function plan_end(stored, generation, first, last, has_failed)
  local plan = { stored = stored, has_ended = not is_superseded(stored, generation), is_removed = false }
  if plan.has_ended and not has_failed and is_repeated(stored, generation) then
    plan.has_ended = false
    return plan
  end
  if stored and #stored > 14 and last_event_list(stored) then
    local events = {}
    for i, event in ipairs(read_events(stored)) do
      if i < tonumber(first) or i > tonumber(last) then
        events[#events + 1] = event
      else
        plan.is_removed = true
      end
    end
    if #events > 0 then
      local current, crashes = struct.unpack('>I4I2', stored)
      plan.has_ended = false
      plan.remaining = plan.is_removed and join_events(current, crashes, events) or nil
    end
  end
  return plan
end

local function end_ticket(keys, job, plan, now)
  if plan.has_ended then
    redis.call('HDEL', keys.tickets, job)
    redis.call('ZREM', keys.backlog, job)
    return true
  end
  redis.call('ZADD', keys.backlog, line_score(job, plan.stored, now, false), job)
  if plan.remaining then -- without it the event is tried again, and its content is unchanged
    redis.call('HSET', keys.tickets, job, plan.remaining)
  end
  wake(keys.wakeup)
  return false
end
