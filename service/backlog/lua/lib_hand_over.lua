-- Define how a waiting worker learns of its lease. Placed before scripts that hand a ticket over or take it back.
-- KEYS     none of its own
-- ARGV     none of its own
-- Returns  nothing; defines new_fence(now, microseconds, lease_ms) -> fence, its text;
--          format_handed_over(job, fence_text, now, stored) -> an element of the wakeup list;
--          read_handed_over(element) -> job, fence, or nil if the element only wakes a worker
-- Atomic   it only computes.
-- An idle system hands a new ticket over: the script that adds it leases it too, and puts the lease into the
-- wakeup list. The worker that takes the element has the lease, without a claim. While the element is in the
-- list, no worker knows the lease: the next claim puts the ticket back into its line.
local function new_fence(now, microseconds, lease_ms)
  -- The fraction holds the microseconds: leases of one ticket that begin in the same millisecond differ.
  local fence = now + lease_ms + (microseconds + 1) / 1024
  return fence, string.format('%.10f', fence)
end

local function format_handed_over(job, fence_text, now, stored)
  return string.format('%s %.0f %d ', fence_text, now, #job) .. job .. stored
end

local function read_handed_over(element)
  local fence, length, first = string.match(element or '', '^(%S+) %d+ (%d+) ()')
  if not fence then
    return nil
  end
  return string.sub(element, first, first + length - 1), tonumber(fence)
end
