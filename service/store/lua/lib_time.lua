-- Define now_ms(), the only clock of the scripts. load_script puts this file before every script.
-- KEYS     the last one: the clock of the namespace, as text "latest offset", both in ms. GroupCommit adds
--          it to the keys of every call, and this file removes it from KEYS
-- ARGV     none
-- Returns  nothing; defines now_ms() -> time in whole ms, microseconds past that millisecond, the server's
--          own time in ms, the offset (ms)
-- Atomic   it runs inside the script that follows, so all steps of that script use one time.
-- The server's clock may be set back, or a server whose clock is behind may become the master. Then all
-- work that waits would not be due. So time never falls behind the latest time that was stored, which
-- happens at most once per second. A step back of up to CLOCK_STEP makes time stand still until the server
-- has caught up. A longer one is stored as an offset, which is added to the server's time from then on.
-- The offset ends at once when the server's clock has reached the stored time: it was set forward again,
-- or no script ran for as long. While it lasts, time is one part in SLEW slower, so that both agree in the
-- end. A clock that is set forward is followed: nothing tells it from a time without scripts.
-- Times that come from the server (ids of the stream) are compared with the server's own time.
local CLOCK_STEP = 1000 -- ms
local SLEW = 20
local clock_key = table.remove(KEYS)
local function now_ms()
  local time = redis.call('TIME')
  local server, microseconds = time[1] * 1000 + math.floor(time[2] / 1000), time[2] % 1000
  local latest, stored_offset = string.match(redis.call('GET', clock_key) or '', '^(%d+) (%d+)$')
  latest, stored_offset = tonumber(latest or '0'), tonumber(stored_offset or '0')
  local offset = server < latest and math.max(stored_offset, latest - server) or 0
  local now, passed = server + offset, server + offset - latest
  if (passed >= CLOCK_STEP or offset - stored_offset > CLOCK_STEP) and not is_read_only then
    local slower = math.min(math.floor(passed / SLEW), CLOCK_STEP / 2)
    redis.call('SET', clock_key, string.format('%.0f %.0f', now, math.max(0, offset - slower)))
  end
  return now, microseconds, server, offset
end
