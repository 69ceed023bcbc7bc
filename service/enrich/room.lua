-- How many calls may be made now? Put before every script that hands out calls.
-- KEYS     none of its own: open_budget is given the names of budget, calls and callers
-- ARGV     none of its own
-- Returns  nothing; defines open_budget(...) -> { room(route, begun) -> free, opens; take(id, until); forget(id) }
-- Atomic   reading the room and taking from it happen in the one script that includes this.
-- A window is kept as the text "limit left reset kind": left is the lowest Remaining seen in it,
-- reset in ms of the server's clock, which is ahead of ours by "skew"; kind is told or guessed.
local GUARD = 50 -- ms that a window is held shut past its end: clocks differ
local SOON = 100 -- ms after which to look again while only calls in flight stand in the way
local FIRST_PROBE = 4
local STALE = 60000 -- ms after its end; a family not heard of since then binds only if no other is known
local DAY = 86400000

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

  local function room(route, begun)
    if closed > now then
      return 0, closed
    end
    local free, opens, unopened, long_ago = nil, nil, nil, nil
    for _, family in ipairs({ 'global', 'token', 'route:' .. route }) do
      local limit, left, reset = string.match(state[family] or '', '^(%d+) (-?%d+) (%d+) %a+$')
      if limit then
        local others = math.max(0, math.min(math.ceil(limit * (1 - share) - 1e-9), limit - 1))
        local ends = reset - skew + GUARD
        if ends > now then
          if not free or left - others < free then
            free, opens = left - others, ends
          end
        elseif ends + STALE > now then
          unopened = math.min(unopened or probe, limit - others)
        else
          long_ago = math.min(long_ago or probe, limit - others)
        end
      end
    end
    if not free or (unopened and unopened < free) then
      free, opens = unopened or long_ago or probe, now + SOON
    end
    if free >= 1 then
      opens = now + SOON
    end
    return free - flying - (begun and 0 or begun_waiting), opens
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
