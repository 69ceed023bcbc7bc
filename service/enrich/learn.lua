-- One call has ended: give it back, and keep what its answer said of the budget.
-- KEYS     1 budget  2 calls  3 bell
-- ARGV     1 job  2 fine | limited | failing | refused  3 the answer's Date (ms) or ""
--          4 wait asked for (ms) or ""  5 moment to resume (server's ms) or ""  6 chance in [0, 1)
--          then windows of four: family, limit or "", left, reset (server's ms) or ""
-- Returns  ms for which the budget is closed now (0: open)
-- Atomic   many answers of one window arrive at once; the lowest Remaining must win.
local SKEW = 2000 -- ms between the server's clock and ours that are borne; beyond, Date corrects
local WINDOW = 10000 -- ms of LaunchDarkly's documented windows, where no reset is told
local FAR = 120000 -- ms ahead beyond which a reset is not believed
local LONGEST = 3600000 -- ms: an explicit Retry-After is obeyed up to an hour
local FIRST_PROBE, LARGEST_PROBE = 4, 1024
local REFUSED = 30000 -- ms of rest after a bad token
local FEWEST_FAILURES = 5 -- before the breaker looks at their share

local outcome, chance = ARGV[2], tonumber(ARGV[6])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREM', KEYS[2], ARGV[1])

local names = { 'closed', 'why', 'probe', 'strikes', 'trips', 'good', 'bad', 'tally_ends' }
local read, state, changed = redis.call('HMGET', KEYS[1], unpack(names)), {}, {}
for i, name in ipairs(names) do
  state[name] = read[i] or nil
end
local function keep(name, value)
  changed[#changed + 1] = name
  changed[#changed + 1] = tostring(value)
end
local function whole(value)
  return string.format('%.0f', value)
end

local skew = 0
if ARGV[3] ~= '' and math.abs(ARGV[3] + 500 - now) > SKEW then
  skew = ARGV[3] + 500 - now
end

local learnt, told = false, false
for i = 7, #ARGV, 4 do
  local family, limit, left = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  local reset = (tonumber(ARGV[i + 3]) or 0) - skew
  local known = redis.call('HGET', KEYS[1], family) or ''
  local old_limit, old_left, old_reset = string.match(known, '^(%d+) (-?%d+) (%d+)$')
  old_limit, old_left, old_reset = tonumber(old_limit or 0), tonumber(old_left), tonumber(old_reset or 0)
  told = true
  if reset <= now or reset > now + FAR then
    reset = old_reset > now and old_reset or now + WINDOW
  end
  if reset > old_reset + 250 then
    learnt = true
    keep(family, whole(limit or math.max(old_limit, left + 1)) .. ' ' .. whole(left) .. ' ' .. whole(reset))
  elseif reset >= old_reset - 250 then
    local lowest = math.min(old_left, left)
    keep(family, whole(limit or old_limit) .. ' ' .. whole(lowest) .. ' ' .. whole(old_reset))
  end
end

local closed, why = tonumber(state.closed or '0'), nil
local was_closed = closed > now
if outcome == 'limited' then
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
  closed, why = math.max(closed, hint + 100 + 900 * chance), 'rate limited'
  keep('probe', 1)
elseif outcome == 'refused' then
  closed, why = math.max(closed, now + REFUSED), 'token refused'
else
  if learnt then
    keep('probe', FIRST_PROBE)
  elseif outcome == 'fine' and not told then
    keep('probe', math.min(tonumber(state.probe or FIRST_PROBE) * 2, LARGEST_PROBE))
  end
  local good, bad = tonumber(state.good or '0'), tonumber(state.bad or '0')
  if now >= tonumber(state.tally_ends or '0') then
    good, bad = 0, 0
    keep('tally_ends', whole(now + WINDOW))
  end
  if outcome == 'fine' then
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
elseif outcome == 'fine' and state.why and not was_closed then
  redis.call('HDEL', KEYS[1], 'why')
end
if #changed > 0 then
  redis.call('HSET', KEYS[1], unpack(changed))
end
redis.call('PEXPIRE', KEYS[1], 86400000)
if learnt and redis.call('LLEN', KEYS[3]) == 0 then
  redis.call('LPUSH', KEYS[3], '1') -- how much may be called is known again: wake who sleeps
  redis.call('PEXPIRE', KEYS[3], 60000)
end
return math.max(0, math.ceil(closed - now))
