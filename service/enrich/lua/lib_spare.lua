-- Define spare_calls(), the calls left over when no ticket is due. Placed after lib_budget.lua, before scripts
-- that may use only those.
-- KEYS     none of its own: spare_calls takes an open budget and the name of the backlog
-- ARGV     none of its own
-- Returns  nothing; defines spare_calls(budget, backlog, route, now) -> calls, ms to wait if there are none
-- Atomic   spare calls are counted and acquired in the one script that includes this.
-- There are no spare calls while a ticket is due. A part of the limit is reserved for tickets that arrive
-- next. While no window is open there is no limit: then half of the available calls may open one.
local RESERVED_PART = 5 -- one in five calls of the lowest limit is reserved
local MIN_WAIT = 1000 -- ms after which to ask again while tickets need the calls

local function spare_calls(budget, backlog, route, now)
  if redis.call('ZCOUNT', backlog, '-inf', now) > 0 then
    return 0, MIN_WAIT
  end
  local free, opens, limit = budget.calls_available(route)
  local spare = limit and free - math.ceil(limit / RESERVED_PART) or math.ceil(free / 2)
  return math.max(0, spare), math.max(MIN_WAIT, opens - now)
end
