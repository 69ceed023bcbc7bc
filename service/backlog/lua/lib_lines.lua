-- Define the lines in which due tickets wait for their turn. Placed before scripts that queue or claim tickets.
-- KEYS     none of its own
-- ARGV     none of its own
-- Returns  nothing; defines LINES (the parts of a score), line_score(job, stored, since, is_tried),
--          due_since(score) -> ms, is_retry(stored) and read_scope(stored)
-- Atomic   it only computes; a score depends on the ticket and the time alone.
-- A score of the backlog is one of these:
--   positive whole number     the ticket is due at this time (ms)
--   positive with a fraction  a lease, which ends at this time (ms)
--   negative                  the ticket is due and stands in a line; with a fraction of a half its worker died
-- A line holds the due tickets of one project and environment that need calls of one kind, those that were
-- tried before apart from the others, the longest due first. Project and environment become a number of 19
-- bits. Two of them may get the same number: then they share their turns, and nothing else.
local LINES = {
  first = -2 ^ 52, -- where the lines of first attempts begin
  retry = -2 ^ 51, -- where the lines of retries begin
  scope = 2 ^ 32, -- from one project and environment to the next
  scopes = 2 ^ 19,
  get = 2 ^ 31, -- from tickets that need a list to those that have an id
  last = 2 ^ 31 - 0.5, -- from the first place of a line to its last one
}
local LINE_EPOCH = 1704067200 -- seconds: places are counted from the first second of 2024

-- The header and the array's head are skipped. cmsgpack does not support binary data, so only the
-- fields before it are decoded.
local function fields_start(stored)
  return string.byte(stored, 15) == 220 and 17 or 15
end

local function read_scope(stored) -- project, environment and application, each nil if unknown
  local ok, _, _, _, _, project, environment, application =
    pcall(cmsgpack.unpack_limit, stored, 6, fields_start(stored))
  local function text(value)
    return ok and type(value) == 'string' and value or nil
  end
  return text(project), text(environment), text(application)
end

-- A ticket was tried before if an attempt counted. A refresh is no first attempt either: nobody waits for it.
local BINARY_SIZES = { [196] = '>I1', [197] = '>I2', [198] = '>I4' }
local function is_retry(stored)
  local ok, offset = pcall(cmsgpack.unpack_limit, stored, 9, fields_start(stored))
  if not ok or offset < 0 then
    return true -- not a ticket
  end
  local size = BINARY_SIZES[string.byte(stored, offset + 1)]
  if size then -- metadata, which cmsgpack cannot decode
    local is_read, length, next_offset = pcall(struct.unpack, size, stored, offset + 2)
    offset = is_read and next_offset - 1 + length or -1
  else
    offset = offset + 1
  end
  local is_decoded, _, _, attempts, _, refresh = pcall(cmsgpack.unpack_limit, stored, 4, offset)
  return not is_decoded or attempts ~= 0 or refresh ~= nil
end

local function line_score(job, stored, since, is_tried)
  local has_id = string.sub(job, 1, 3) == 'id:'
  local scope = string.match(job, '^find:([^/]*/[^/]*)/')
  if not scope then
    local project, environment = read_scope(stored)
    scope = (project or '') .. '/' .. (environment or '')
  end
  local number = tonumber(string.sub(redis.sha1hex(scope), 1, 5), 16) % LINES.scopes
  local place = math.max(0, math.min(math.floor(since / 1000) - LINE_EPOCH, LINES.get - 1))
  return (is_tried and LINES.retry or LINES.first) + number * LINES.scope + (has_id and LINES.get or 0) + place
end

local function due_since(score)
  return score < 0 and (score % LINES.get - score % 1 + LINE_EPOCH) * 1000 or score
end
