-- Define open_budget() and spare_calls(): how many calls are available. Placed before scripts that give out calls.
-- KEYS     none of its own: open_budget takes the names of budget, calls and waiting
-- ARGV     none of its own
-- Returns  nothing; defines open_budget(budget, calls, waiting, now, share, call_ttl) -> table of three functions:
--          calls_available(route, is_started) -> calls, ms when to ask again, limit;
--          acquire(call, until_ms); drop_call(call)
--          and spare_calls(budget, backlog, route, now) -> calls, ms to wait if there are none
-- Atomic   the available calls are counted and acquired in the one script that includes this.
-- A window is stored as the text "limit remaining reset kind first responses since": remaining is the
-- lowest Remaining header seen in it; reset is in ms of LaunchDarkly's clock, which is clock_skew_ms ahead
-- of Redis; kind is reported or assumed. record_response.lua needs the rest: the first Remaining that was
-- seen, how many of our responses came since, and since when (ms of Redis).
local RESET_MARGIN = 50 -- ms that a window stays closed after its reset, because clocks differ
local RECHECK = 100 -- ms after which to ask again while only calls in flight are in the way
local CALL_DELAY = 300 -- ms from the response that LaunchDarkly counted to the call that it permits
local OTHER_CLIENTS_PER_S = 1 -- calls per second from which other clients matter; assumed until known
local FIRST_PROBE = 4 -- calls that may open an unknown window
local CALL_TTL = 40000 -- ms after which a call counts as lost, where the script does not say
local PROBE_PATIENCE = 5000 -- ms after which a probe without a response is followed by one call more
local COUNTED_FOR = 16000 -- ms: a call reaches LaunchDarkly within 6 s, and then counts for a window of 10 s
local STALE_AFTER = 60000 -- ms after its reset; later a window counts only if no other is known
local DAY = 86400000
local RESERVED_PART = 5 -- one in five calls of the lowest limit is reserved, and never spare
local MIN_SPARE_WAIT = 1000 -- ms after which to ask for a spare call again while tickets need the calls

local function open_budget(budget, calls, waiting, now, share, call_ttl)
  redis.call('ZREMRANGEBYSCORE', calls, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', waiting, '-inf', now)
  local in_flight = redis.call('ZCARD', calls)
  local waiting_count = redis.call('ZCARD', waiting)
  local state, pairs_list = {}, redis.call('HGETALL', budget)
  for i = 1, #pairs_list, 2 do
    state[pairs_list[i]] = pairs_list[i + 1]
  end
  local closed_until, clock_skew = tonumber(state.closed_until or '0'), tonumber(state.clock_skew_ms or '0')
  local probe = tonumber(state.probe or FIRST_PROBE)
  local other_clients_per_s = tonumber(state.other_clients_per_s or OTHER_CLIENTS_PER_S)

  -- While our calls are in flight, other clients may use up what remains. If there are other clients, at
  -- most half of what remains is in flight at once, and the calls they make meanwhile are left to them. So
  -- the last calls of a window go out few at a time, and no call exceeds the limit.
  local function bound_calls(remaining, reserved)
    if other_clients_per_s < OTHER_CLIENTS_PER_S then
      return remaining - reserved
    end
    local theirs = math.ceil((other_clients_per_s - OTHER_CLIENTS_PER_S) * CALL_DELAY / 1000)
    return math.min(remaining - math.max(reserved, theirs), math.ceil(remaining / 2))
  end

  -- How many calls may be in flight while no window is open: a probe, up to what the limits leave (most, nil
  -- if unknown). A probe that nobody answers may belong to a dead worker. So every 5 s one call more may be
  -- made, as far as the limits allow it, and calls that count for no present window are not in the way.
  local function bound_probe(size, most)
    size = math.min(size, most or size)
    if size - in_flight >= 1 or in_flight == 0 then
      return size
    end
    local granted_at_now = now + (call_ttl or CALL_TTL)
    local counted = redis.call('ZCOUNT', calls, granted_at_now - COUNTED_FOR, '+inf')
    local is_silent = redis.call('ZCOUNT', calls, granted_at_now - PROBE_PATIENCE, '+inf') == 0
    local more = is_silent and math.min(1, (most or math.huge) - counted) or 0
    return in_flight + math.max(size - counted, more)
  end

  -- A started deployment (is_started) may use the calls that are kept for those waiting. The limit is the
  -- lowest of the open windows; it is nil while one of them is unknown.
  local function calls_available(route, is_started)
    if closed_until > now then
      return 0, closed_until
    end
    local free, opens, unopened, stale, lowest = nil, nil, nil, nil, nil -- unopened, stale: the lowest limits
    for _, family in ipairs({ 'global', 'token', 'policy', 'route:' .. route }) do
      local limit, remaining, reset = string.match(state[family] or '', '^(%d+) (-?%d+) (%d+) %a+')
      if limit then
        local reserved = math.max(0, math.min(math.ceil(limit * (1 - share) - 1e-9), limit - 1))
        local ends = reset - clock_skew + RESET_MARGIN
        if ends > now then
          local bound = bound_calls(remaining, reserved)
          lowest = math.min(lowest or math.huge, limit)
          if not free or bound < free then
            free, opens = bound, ends
          end
        elseif ends + STALE_AFTER > now then
          unopened = math.min(unopened or math.huge, limit - reserved)
        else
          stale = math.min(stale or math.huge, limit - reserved)
        end
      end
    end
    if not free or (unopened and math.min(unopened, probe) < free) then
      free, opens, lowest = bound_probe(probe, unopened or stale), now + RECHECK, nil
    end
    if free >= 1 then
      opens = now + RECHECK
    end
    return free - in_flight - (is_started and 0 or waiting_count), opens, lowest
  end

  local has_ttl = false
  local function acquire(call, until_ms)
    redis.call('ZADD', calls, until_ms, call)
    if not has_ttl then
      redis.call('PEXPIRE', calls, DAY)
      has_ttl = true
    end
    in_flight = in_flight + 1
  end

  local function drop_call(call)
    in_flight = in_flight - redis.call('ZREM', calls, call)
  end

  return { calls_available = calls_available, acquire = acquire, drop_call = drop_call }
end

-- Spare calls are the calls that no ticket needs: there are none while a ticket is due. A part of the
-- limit is reserved for tickets that arrive next. While no window is open there is no limit: then half of
-- the available calls may open one.
local function spare_calls(budget, backlog, route, now)
  if redis.call('ZCOUNT', backlog, '-inf', now) > 0 then
    return 0, MIN_SPARE_WAIT
  end
  local free, opens, limit = budget.calls_available(route)
  local spare = limit and free - math.ceil(limit / RESERVED_PART) or math.ceil(free / 2)
  return math.max(0, spare), math.max(MIN_SPARE_WAIT, opens - now)
end
