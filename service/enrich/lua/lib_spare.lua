-- What is left over of the budget? Put, behind room.lua, before every script that spends only that.
-- KEYS     none of its own: left_over is given an open budget and the name of the backlog
-- ARGV     none of its own
-- Returns  nothing; defines left_over(budget, backlog, route, now) -> calls, ms to wait if there is none
-- Atomic   what is left over is read and spent in the one script that includes this.
-- Nothing is left over while anything is due. A part of the limit stays for what comes next; while
-- no window is open its limit binds nobody, and half of what may be called will open one.
local RESERVE = 5 -- one in so many calls of the lowest limit
local A_WHILE = 1000 -- ms after which to ask again while others have work

local function left_over(budget, backlog, route, now)
  if redis.call('ZCOUNT', backlog, '-inf', now) > 0 then
    return 0, A_WHILE
  end
  local free, opens, limit = budget.room(route)
  local spare = limit and free - math.ceil(limit / RESERVE) or math.ceil(free / 2)
  return math.max(0, spare), math.max(A_WHILE, opens - now)
end
