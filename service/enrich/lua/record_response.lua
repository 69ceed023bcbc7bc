-- One call has ended: give it back, and keep what its answer said of the budget.
-- KEYS     1 budget  2 calls  3 bell
-- ARGV     1 job  2 ok | rate_limited | server_error | unauthorized  3 the answer's Date (ms) or ""
--          4 wait asked for (ms) or ""  5 moment to resume (server's ms) or ""  6 chance in [0, 1)
--          then windows of four: family, limit or "", left, reset (server's ms) or ""
-- Returns  ms for which the budget is closed now (0: open)
-- Atomic   many answers of one window arrive at once; the lowest Remaining must win.
-- Windows are kept as room.lua says, in the server's own clock: so every answer names its window alike.
local BORNE = 1000 -- ms that an answer may seem to come from an earlier moment: Date has whole seconds
local WINDOW = 10000 -- ms of LaunchDarkly's documented windows, where no reset is told
local FAR = 120000 -- ms ahead beyond which a reset is not believed
local LATE = 30000 -- ms ago before which it is not believed either: no answer takes so long
local SAME = 250 -- ms within which two resets name one window
local DAY = 86400000
local LONGEST = 3600000 -- ms: an explicit Retry-After is obeyed up to an hour
local FIRST_PROBE, LARGEST_PROBE = 4, 64 -- the largest is what a limit found only by its 429 refuses
local OTHER_CLIENTS_PER_S = 1 -- calls a second that other programs may make, as long as nothing is known of them
local SPAN = 200 -- ms at the least over which the pace of other programs is reckoned
local PATIENCE = 32 -- probes answered before one more call may be in flight than a 429 taught
local REFUSED = 30000 -- ms of rest after a bad token
local FEWEST_FAILURES = 5 -- before the breaker looks at their share

local outcome, chance = ARGV[2], tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREM', KEYS[2], ARGV[1])

local state, changed, flat = {}, {}, redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  state[flat[i]] = flat[i + 1]
end
local function keep(name, value)
  changed[#changed + 1] = name
  changed[#changed + 1] = tostring(value)
end
local function whole(value)
  return string.format('%.0f', value)
end

-- How far the server's clock is ahead of ours: never more than Date proves, since too little only
-- holds a window shut a little longer, and too much would open it while it is used up.
local skew = tonumber(state.skew or '0')
if ARGV[3] ~= '' then
  local seen = ARGV[3] - now
  if math.abs(seen) < DAY and (seen > skew or seen + 500 < skew - BORNE) then
    skew = seen
    keep('skew', whole(skew))
  end
end
local there = now + skew

local learnt, told, other_clients_per_s = false, false, tonumber(state.other_clients_per_s or OTHER_CLIENTS_PER_S)
local counted = outcome == 'rate_limited' and 0 or 1 -- a refused call takes nothing
local flying = redis.call('ZCARD', KEYS[2])
local function read_window(family)
  local limit, left, reset, kind, first, heard, since =
    string.match(state[family] or '', '^(%d+) (-?%d+) (%d+) (%a+) (%d+) (%d+) (%d+)$')
  return {
    limit = tonumber(limit or '0'), left = tonumber(left), reset = tonumber(reset or '0'), kind = kind,
    first = tonumber(first), heard = tonumber(heard), since = tonumber(since),
  }
end
local function keep_window(family, window)
  local parts = { window.limit, window.left, window.reset, window.first, window.heard, window.since }
  for i, number in ipairs(parts) do
    parts[i] = whole(number)
  end
  table.insert(parts, 4, window.kind)
  state[family] = table.concat(parts, ' ')
  keep(family, state[family])
end
local function open_window(family, limit, left, reset, kind)
  learnt = true
  keep_window(family, {
    limit = limit, left = left, reset = reset, kind = kind, first = left, heard = 0, since = now,
  })
end
local function narrow_window(family, window, limit, left)
  window.limit, window.left = limit, math.min(window.left, left)
  window.heard = window.heard + counted
  keep_window(family, window)
  -- Gone since the first answer, and neither an answer of ours nor, perhaps, a call on its way.
  local theirs = window.first - window.left - window.heard - flying
  other_clients_per_s = math.max(other_clients_per_s, theirs * 1000 / math.max(now - window.since, SPAN))
end
local function learn_window(family, limit, left, reset)
  local old = read_window(family)
  limit = limit or math.max(old.limit, left + 1)
  if reset and (reset > there + FAR or reset < there - LATE) then
    reset = nil
  end
  if not reset and old.reset > there then
    narrow_window(family, old, limit, left)
  elseif not reset then
    open_window(family, limit, left, there + WINDOW, 'assumed')
  elseif reset > there and reset > old.reset + SAME then
    open_window(family, limit, left, reset, 'reported')
  elseif reset > there and (reset >= old.reset - SAME or old.kind == 'assumed') then
    old.reset, old.kind = old.kind == 'assumed' and reset or old.reset, 'reported'
    narrow_window(family, old, limit, left)
  end -- else a late answer of a window that has ended: it says nothing about this one
end
for i = 7, #ARGV, 4 do
  told = true
  learn_window(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3]))
end
if outcome == 'server_error' and not told then -- no answer: the server may have counted the call
  for _, family in ipairs({ 'global', 'token', 'route:get', 'route:list' }) do
    local window = read_window(family)
    if window.reset > there and window.left > 0 then
      narrow_window(family, window, window.limit, window.left - 1)
    end
  end
end
if learnt and state.other_clients_per_s then
  other_clients_per_s = other_clients_per_s / 2 -- who is still about is seen again
end
if learnt or other_clients_per_s ~= tonumber(state.other_clients_per_s) then
  keep('other_clients_per_s', string.format('%.3f', other_clients_per_s))
end

local closed, why = tonumber(state.closed or '0'), nil
local was_closed = closed > now
if outcome == 'rate_limited' then
  local hint = 0
  if ARGV[4] ~= '' then
    hint = now + math.min(tonumber(ARGV[4]), LONGEST)
  end
  if ARGV[5] ~= '' and ARGV[5] - skew <= now + FAR then
    hint = math.max(hint, ARGV[5] - skew)
  end
  if hint <= now and not was_closed then
    local strikes = math.min(tonumber(state.strikes or '0') + 1, 6)
    local longest = 1000 * 2 ^ strikes
    keep('strikes', strikes)
    hint = now + longest / 2 * (1 + chance)
  end
  -- Jitter is for many clients that are told one wait. We are one, and come back with one call: at
  -- a Reset, which is a moment, little of it is enough.
  local jitter = ARGV[4] == '' and ARGV[5] ~= '' and 150 or 900
  closed, why = math.max(closed, hint + 100 + jitter * chance), 'rate limited'
  keep('probe', 1)
  if not told and not was_closed then
    keep('pace', math.max(1, math.floor((flying + 1) / 2)))
  end
elseif outcome == 'unauthorized' then
  closed, why = math.max(closed, now + REFUSED), 'token refused'
else
  if learnt then
    keep('probe', FIRST_PROBE)
  elseif outcome == 'ok' and not told and not was_closed then
    local probe, pace = tonumber(state.probe or FIRST_PROBE), tonumber(state.pace or LARGEST_PROBE)
    local larger = probe < pace and math.min(probe * 2, pace) or probe + 1 / (PATIENCE * probe)
    keep('probe', math.min(larger, LARGEST_PROBE))
  end
  local good, bad = tonumber(state.good or '0'), tonumber(state.bad or '0')
  if now >= tonumber(state.tally_ends or '0') then
    good, bad = 0, 0
    keep('tally_ends', whole(now + WINDOW))
  end
  if outcome == 'ok' then
    good = good + 1
    keep('strikes', 0)
    keep('trips', 0)
  else
    bad = bad + 1
  end
  if bad >= FEWEST_FAILURES and bad > good and not was_closed then
    local trips = math.min(tonumber(state.trips or '0') + 1, 6)
    keep('trips', trips)
    keep('probe', 1)
    closed, why = now + 1000 * 2 ^ trips * (0.5 + chance / 2), 'upstream failing'
    good, bad = 0, 0
  end
  keep('good', good)
  keep('bad', bad)
end

if why then
  keep('closed', whole(closed))
  keep('why', why)
elseif outcome == 'ok' and state.why and not was_closed then
  redis.call('HDEL', KEYS[1], 'why')
end
if #changed > 0 then
  redis.call('HSET', KEYS[1], unpack(changed))
end
redis.call('PEXPIRE', KEYS[1], DAY)
if learnt and redis.call('LLEN', KEYS[3]) == 0 then
  redis.call('LPUSH', KEYS[3], '1') -- how much may be called is known again: wake who sleeps
  redis.call('PEXPIRE', KEYS[3], 60000)
end
return math.max(0, math.ceil(closed - now))
