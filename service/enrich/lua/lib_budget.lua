-- How many calls may be made now? Put before every script that hands out calls.
-- KEYS     none of its own: open_budget is given the names of budget, calls and callers
-- ARGV     none of its own
-- Returns  nothing; defines open_budget(...) -> { room(route, begun) -> free, opens, limit; take(id, until); forget(id) }
--          and left_over(budget, backlog, route, now) -> spare calls, ms to wait if there is none
-- Atomic   reading the room and taking from it happen in the one script that includes this.
-- A window is kept as the text "limit left reset kind first heard since": left is the lowest
-- Remaining seen in it, reset in ms of the server's clock, which is ahead of ours by "skew"; kind is
-- reported or assumed. learn.lua needs the rest: the first left that was seen, how many answers of ours
-- came since, and since when (our ms).
local GUARD = 50 -- ms that a window is held shut past its end: clocks differ
local SOON = 100 -- ms after which to look again while only calls in flight stand in the way
local MEANWHILE = 300 -- ms from where an answer was counted to where the call is that it allows
local OTHER_CLIENTS_PER_S = 1 -- other programs' calls a second from which on they count; so many until we know
local FIRST_PROBE = 4
local STALE = 60000 -- ms after its end; a family not heard of since then binds only if no other is known
local DAY = 86400000
local RESERVE = 5 -- one in so many calls of the lowest limit stays for what comes next
local A_WHILE = 1000 -- ms after which to ask again while others have work

local function open_budget(budget, calls, callers, now, share)
  redis.call('ZREMRANGEBYSCORE', calls, '-inf', now)
  redis.call('ZREMRANGEBYSCORE', callers, '-inf', now)
  local flying = redis.call('ZCARD', calls)
  local begun_waiting = redis.call('ZCARD', callers)
  local state, flat = {}, redis.call('HGETALL', budget)
  for i = 1, #flat, 2 do
    state[flat[i]] = flat[i + 1]
  end
  local closed, skew = tonumber(state.closed or '0'), tonumber(state.skew or '0')
  local probe = tonumber(state.probe or FIRST_PROBE)

  local other_clients_per_s = tonumber(state.other_clients_per_s or OTHER_CLIENTS_PER_S) -- calls of other programs in a second

  -- While our calls are on their way, other_clients_per_s take from what was left: with other_clients_per_s about, no more
  -- than half of it is on its way at once, and what they take meanwhile stays theirs. So the last
  -- calls of a window go out few at a time, and none of them is one too many.
  local function bound_calls(left, spared)
    if other_clients_per_s < OTHER_CLIENTS_PER_S then
      return left - spared
    end
    local theirs = math.ceil((other_clients_per_s - OTHER_CLIENTS_PER_S) * MEANWHILE / 1000)
    return math.min(left - math.max(spared, theirs), math.ceil(left / 2))
  end

  -- The limit is the lowest of the windows that are open; nil while one of them is not known.
  local function room(route, begun)
    if closed > now then
      return 0, closed
    end
    local free, opens, unopened, long_ago, lowest = nil, nil, nil, nil, nil
    for _, family in ipairs({ 'global', 'token', 'route:' .. route }) do
      local limit, left, reset = string.match(state[family] or '', '^(%d+) (-?%d+) (%d+) %a+')
      if limit then
        local spared = math.max(0, math.min(math.ceil(limit * (1 - share) - 1e-9), limit - 1))
        local ends = reset - skew + GUARD
        if ends > now then
          local bound = bound_calls(left, spared)
          lowest = math.min(lowest or math.huge, limit)
          if not free or bound < free then
            free, opens = bound, ends
          end
        elseif ends + STALE > now then
          unopened = math.min(unopened or probe, limit - spared)
        else
          long_ago = math.min(long_ago or probe, limit - spared)
        end
      end
    end
    if not free or (unopened and unopened < free) then
      free, opens, lowest = unopened or long_ago or probe, now + SOON, nil
    end
    if free >= 1 then
      opens = now + SOON
    end
    return free - flying - (begun and 0 or begun_waiting), opens, lowest
  end

  local function take(id, until_ms)
    redis.call('ZADD', calls, until_ms, id)
    redis.call('PEXPIRE', calls, DAY)
    flying = flying + 1
  end

  local function forget(id)
    flying = flying - redis.call('ZREM', calls, id)
  end

  return { room = room, take = take, forget = forget }
end

-- Spare calls: none while a ticket is due. A part of the limit stays for what comes next. While no
-- window is open the limit is unknown: half of the calls that may be made open one.
local function left_over(budget, backlog, route, now)
  if redis.call('ZCOUNT', backlog, '-inf', now) > 0 then
    return 0, A_WHILE
  end
  local free, opens, limit = budget.room(route)
  local spare = limit and free - math.ceil(limit / RESERVE) or math.ceil(free / 2)
  return math.max(0, spare), math.max(A_WHILE, opens - now)
end
