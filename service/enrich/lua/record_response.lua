-- Release one call that has ended, and record what its response says about the budget.
-- KEYS     1 budget  2 calls  3 wakeup  4 forbidden
-- ARGV     1 id of the call  2 ok | cancelled | forbidden | rate_limited | server_error | unauthorized
--          3 Date header (ms) or ""
--          4 Retry-After (ms) or ""  5 time to resume (ms of LaunchDarkly) or ""  6 random number in [0, 1)
--          7 project and environment whose access the response decides, or ""
--          then fours, one per window: family, limit or "", remaining, reset (ms of LaunchDarkly) or ""
-- Returns  ms for which the budget is closed now (0: open)
-- Atomic   many responses of one window arrive at once; the lowest Remaining must win.
-- Flags    allow-oom: it releases a call; otherwise the budget would count it as in flight.
-- Windows are stored as lib_budget.lua describes, in ms of LaunchDarkly's clock, so that every response
-- names the same window alike.
local DATE_ERROR = 1000 -- ms by which a response may seem older than it is: Date has whole seconds
local WINDOW = 10000 -- ms of LaunchDarkly's documented windows, used where no reset is reported
local MAX_AHEAD = 120000 -- ms: the end of a window further ahead is not trusted
local MAX_WAIT = 120000 -- ms: after a longer wait, however it is announced, one call probes
local MAX_RESUME_AHEAD = 3600000 -- ms: a 429 whose reset is further ahead counts as one without a reset
local MAX_BEHIND = 30000 -- ms: a reset further in the past is not trusted, because no response takes so long
local SAME_RESET = 250 -- ms within which two resets name one window
local SAME_POLICY_RESET = 1500 -- the same for the family "policy", whose resets are whole seconds from the response
local DAY = 86400000
local FIRST_PROBE, MAX_PROBE = 4, 64 -- the largest is how many calls an unannounced limit can refuse
local OTHER_CLIENTS_PER_S = 1 -- calls per second that other clients are assumed to make until known
local MIN_RATE_SPAN = 200 -- ms: the shortest time over which the rate of other clients is computed
local CALLS_PER_PROBE_STEP = 32 -- ok responses per probe before one call more than the last 429 allowed
local UNAUTHORIZED_PAUSE = 30000 -- ms without calls after LaunchDarkly refuses the token
local FORBIDDEN_TTL = 3600000 -- ms for which a refused access is reported after its last refusal
local MAX_FORBIDDEN = 100 -- projects and environments reported: the last ones refused
local MAX_BREAKER_TRIPS = 4 -- a pause is at most 2 ^ 4 s, so that work continues soon after an outage
local MIN_FAILED_JOBS = 5 -- jobs whose calls fail before the breaker compares failures with successes
local DIGEST_SIZE = 8 -- characters by which a failed job is remembered

-- A forbidden project is a good response to the budget: the API works, and other projects are not concerned.
local is_forbidden = ARGV[2] == 'forbidden'
local result, random, scope = is_forbidden and 'ok' or ARGV[2], tonumber(ARGV[6]), ARGV[7]
local now = now_ms()
redis.call('ZREM', KEYS[2], ARGV[1])
if scope ~= '' and is_forbidden then
  redis.call('ZADD', KEYS[4], now + FORBIDDEN_TTL, scope)
  redis.call('PEXPIRE', KEYS[4], FORBIDDEN_TTL)
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
  for _, oldest in ipairs(redis.call('ZRANGE', KEYS[4], 0, -MAX_FORBIDDEN - 1)) do
    redis.call('ZREM', KEYS[4], oldest)
  end
elseif scope ~= '' and result == 'ok' then
  redis.call('ZREM', KEYS[4], scope)
end

local state, changes, pairs_list = {}, {}, redis.call('HGETALL', KEYS[1])
for i = 1, #pairs_list, 2 do
  state[pairs_list[i]] = pairs_list[i + 1]
end
local function set(name, value)
  changes[#changes + 1] = name
  changes[#changes + 1] = tostring(value)
end
local function format_integer(value)
  return string.format('%.0f', value)
end

-- How far LaunchDarkly's clock is ahead of Redis: never more than Date proves. Too low a value keeps a
-- window closed a little longer; too high a value would open it while nothing remains of it.
local clock_skew = tonumber(state.clock_skew_ms or '0')
if ARGV[3] ~= '' then
  local seen = ARGV[3] - now
  if math.abs(seen) < DAY and (seen > clock_skew or seen + 500 < clock_skew - DATE_ERROR) then
    clock_skew = seen
    set('clock_skew_ms', format_integer(clock_skew))
  end
end
local server_now = now + clock_skew

local is_new_window, has_windows = false, false
local other_clients_per_s = tonumber(state.other_clients_per_s or OTHER_CLIENTS_PER_S)
local counted = result == 'rate_limited' and 0 or 1 -- LaunchDarkly does not count a refused call
local in_flight = redis.call('ZCARD', KEYS[2])
local function read_window(family)
  local limit, remaining, reset, kind, first, responses, since =
    string.match(state[family] or '', '^(%d+) (-?%d+) (%d+) (%a+) (%d+) (%d+) (%d+)$')
  return {
    limit = tonumber(limit or '0'), remaining = tonumber(remaining), reset = tonumber(reset or '0'), kind = kind,
    first = tonumber(first), responses = tonumber(responses), since = tonumber(since),
  }
end
local function store_window(family, window)
  local parts = { window.limit, window.remaining, window.reset, window.first, window.responses, window.since }
  for i, number in ipairs(parts) do
    parts[i] = format_integer(number)
  end
  table.insert(parts, 4, window.kind)
  state[family] = table.concat(parts, ' ')
  set(family, state[family])
end
local function open_window(family, limit, remaining, reset, kind)
  is_new_window = true
  store_window(family, {
    limit = limit, remaining = remaining, reset = reset, kind = kind, first = remaining, responses = 0, since = now,
  })
end
local function narrow_window(family, window, limit, remaining)
  window.limit, window.remaining = limit, math.min(window.remaining, remaining)
  window.responses = window.responses + counted
  store_window(family, window)
  -- What was used since the first response, less our own responses and calls in flight.
  local theirs = window.first - window.remaining - window.responses - in_flight
  other_clients_per_s = math.max(other_clients_per_s, theirs * 1000 / math.max(now - window.since, MIN_RATE_SPAN))
end
local function record_window(family, limit, remaining, reset)
  local old, same_reset = read_window(family), family == 'policy' and SAME_POLICY_RESET or SAME_RESET
  limit = limit or math.max(old.limit, remaining + 1)
  if reset and (reset > server_now + MAX_AHEAD or reset < server_now - MAX_BEHIND) then
    reset = nil
  end
  if not reset and old.reset > server_now then
    narrow_window(family, old, limit, remaining)
  elseif not reset then
    open_window(family, limit, remaining, server_now + WINDOW, 'assumed')
  elseif reset > server_now and reset > old.reset + same_reset then
    open_window(family, limit, remaining, reset, 'reported')
  elseif reset > server_now and (reset >= old.reset - same_reset or old.kind == 'assumed') then
    old.reset, old.kind = old.kind == 'assumed' and reset or old.reset, 'reported'
    narrow_window(family, old, limit, remaining)
  end -- else a late response of a window that has ended: it says nothing about this one
end
for i = 8, #ARGV, 4 do
  has_windows = true
  record_window(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
end
local has_response = result ~= 'server_error' and result ~= 'cancelled'
if not has_response and not has_windows then -- LaunchDarkly may have counted the call
  for _, family in ipairs({ 'global', 'token', 'policy', 'route:get', 'route:list' }) do
    local window = read_window(family)
    if window.reset > server_now and window.remaining > 0 then
      narrow_window(family, window, window.limit, window.remaining - 1)
    end
  end
end
if is_new_window and state.other_clients_per_s then
  other_clients_per_s = other_clients_per_s / 2 -- other clients that still call are measured again
end
if is_new_window or other_clients_per_s ~= tonumber(state.other_clients_per_s) then
  set('other_clients_per_s', string.format('%.3f', other_clients_per_s))
end

local closed_until, closed_reason = tonumber(state.closed_until or '0'), nil
local was_closed = closed_until > now
if result == 'rate_limited' then
  local hint = 0
  if ARGV[4] ~= '' then
    hint = now + math.min(tonumber(ARGV[4]), MAX_WAIT)
  end
  local resume = ARGV[5] ~= '' and ARGV[5] - clock_skew or 0
  if resume <= now + MAX_RESUME_AHEAD then
    hint = math.max(hint, math.min(resume, now + MAX_WAIT))
  end
  if hint <= now and not was_closed then
    local backoff_step = math.min(tonumber(state.backoff_step or '0') + 1, 6)
    local longest = 1000 * 2 ^ backoff_step
    set('backoff_step', backoff_step)
    hint = now + longest / 2 * (1 + random)
  end
  -- Jitter separates many clients that get the same wait. All workers together are one client, which
  -- continues with one call. A Reset is an exact time, so little jitter is enough.
  local jitter = ARGV[4] == '' and ARGV[5] ~= '' and 150 or 900
  closed_until, closed_reason = math.max(closed_until, hint + 100 + jitter * random), 'rate limited'
  set('probe', 1)
  if not has_windows and not was_closed then
    set('max_probe', math.max(1, math.floor((in_flight + 1) / 2)))
  end
elseif result == 'unauthorized' then
  closed_until, closed_reason = math.max(closed_until, now + UNAUTHORIZED_PAUSE), 'token refused'
elseif result ~= 'cancelled' then -- a call that was broken off is neither a success nor a failure
  if is_new_window then
    set('probe', FIRST_PROBE)
  elseif result == 'ok' and not has_windows and not was_closed then
    local probe, max_probe = tonumber(state.probe or FIRST_PROBE), tonumber(state.max_probe or MAX_PROBE)
    local larger = probe < max_probe and math.min(probe * 2, max_probe) or probe + 1 / (CALLS_PER_PROBE_STEP * probe)
    set('probe', math.min(larger, MAX_PROBE))
  end
  local ok_calls, failed_calls = tonumber(state.ok_calls or '0'), tonumber(state.failed_calls or '0')
  local failed_jobs = state.failed_jobs or ''
  if now >= tonumber(state.breaker_window_ends or '0') then
    ok_calls, failed_calls, failed_jobs = 0, 0, ''
    set('breaker_window_ends', format_integer(now + WINDOW))
  end
  if result == 'ok' then
    ok_calls = ok_calls + 1
    set('backoff_step', 0)
    set('breaker_trips', 0)
  else
    failed_calls = failed_calls + 1
    -- One deployment that always fails, tried again and again, is no outage: its job counts once.
    -- Neither are the lists of flag events, which all workers ask for: they count as one job.
    local job = string.match(ARGV[1], '^list for (.*)$') or string.match(ARGV[1], '^flag events') or ARGV[1]
    local digest = string.sub(redis.sha1hex(job), 1, DIGEST_SIZE)
    if #failed_jobs < MIN_FAILED_JOBS * DIGEST_SIZE and not string.find(failed_jobs, digest, 1, true) then
      failed_jobs = failed_jobs .. digest
    end
  end
  local is_widespread = #failed_jobs >= MIN_FAILED_JOBS * DIGEST_SIZE
  if is_widespread and failed_calls > ok_calls and not was_closed then
    local breaker_trips = math.min(tonumber(state.breaker_trips or '0') + 1, MAX_BREAKER_TRIPS)
    set('breaker_trips', breaker_trips)
    set('probe', 1)
    closed_until, closed_reason = now + 1000 * 2 ^ breaker_trips * (0.5 + random / 2), 'upstream failing'
    ok_calls, failed_calls, failed_jobs = 0, 0, ''
  end
  set('ok_calls', ok_calls)
  set('failed_calls', failed_calls)
  if failed_jobs ~= (state.failed_jobs or '') then
    set('failed_jobs', failed_jobs)
  end
end

if closed_reason then
  set('closed_until', format_integer(closed_until))
  set('closed_reason', closed_reason)
elseif result == 'ok' and state.closed_reason and not was_closed then
  redis.call('HDEL', KEYS[1], 'closed_reason')
end
if #changes > 0 then
  redis.call('HSET', KEYS[1], unpack(changes))
end
redis.call('PEXPIRE', KEYS[1], DAY)
if is_new_window then
  wake(KEYS[3]) -- the number of available calls is known again: a sleeping worker may claim
end
return math.max(0, math.ceil(closed_until - now))
