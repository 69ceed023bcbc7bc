-- Define the history of an application in an environment, and what a deployment changed there.
-- Placed before append_and_settle.lua.
-- KEYS     none of its own: update_history takes the name of the key
-- ARGV     none of its own
-- Returns  nothing; defines update_history(key, line, mark, is_same, now, ttl), which puts a deployment into the
--          history. line is its line (history.py), mark what this function returned for it last, or "", and is_same
--          whether that belongs to a record of the same content. It returns the change as JSON and its mark. The
--          change is nil if it is not known, or if is_same and nothing has changed. From the character MARKED_AT on,
--          two marks are equal if the changes are
-- Atomic   no other deployment comes between the history and the record that says what a deployment changed.
-- A history is a list of the deployments that ended last, the newest first: in the order of their ends, then of
-- their ids. An element is: how often the order was corrected (8 digits), the line of a deployment, a line feed, and
-- the codes of the versions of this deployment and of each one before it. In all elements but the newest, only the
-- line counts.
-- A line is: the end (ms, 15 digits), the checksums of the version and of the line (8 characters each), "+" or "-",
-- and {"deploymentId":…,"version":…,"endedAt":…,"outcome":…}. So in an element they begin at 9, 24, 32, 40 and 41.
-- The code of a version is the first CODE characters of its checksum: few versions share one.
-- A change looks at the LOOKBACK deployments before. It is known while at most LOOKBACK later ones ended: then
-- nothing that it looks at was forgotten. A deployment that is put before others, or is another one than it was, is
-- a correction. While the number of corrections is the same, every deployment has the same ones before it.
-- A call that failed is repeated: then its deployment is in the list already, and is not added again.
local MARKED_AT = 17 -- before it stand the number of corrections and the checksum of the line
local LOOKBACK, CODE = 25, 4
local NOTHING_BEFORE =
  '{"previous":null,"sincePreviousMs":null,"redeployment":false,"rollback":false,"recovery":null}'
local KEPT, MOST = 56, 64 -- at least 51 are needed: a deployment, LOOKBACK before it and LOOKBACK after it

local function ended_at(element)
  return tonumber(string.sub(element, 9, 23))
end

-- Compare a deployment with those that are remembered: with all, or with the newest ones if it is_newer. Returns its
-- change as JSON, or nil, and what tells the change from others; the number of corrections; and whether it is the
-- newest and has still to be added. If it has another place, it is put there. Most calls do not need any of this, so
-- the functions are defined in here.
local function compare_with_others(key, own, is_newer, corrections, ttl)
  local function checksum_of(element)
    return string.sub(element, 32, 39)
  end
  local function has_succeeded(element)
    return string.sub(element, 40, 40) == '+'
  end
  local function id_of(element) -- as JSON, in which a quote follows a backslash
    return string.sub(element, 57, string.find(element, ',"version":', 57, true) - 1)
  end
  local function version_of(element) -- as JSON, or nil: an unknown version equals no other
    local _, before = string.find(element, ',"version":', 57, true)
    local version = string.sub(element, before + 1, string.find(element, ',"endedAt":', before, true) - 1)
    return version ~= 'null' and version or nil
  end
  local function line_of(element)
    return string.sub(element, 9, string.find(element, '\n', 41, true) - 1)
  end
  local function is_later(one, other)
    local time, other_time, id, other_id = ended_at(one), ended_at(other), id_of(one), id_of(other)
    if time ~= other_time then
      return time > other_time
    end
    for i = 1, math.min(#id, #other_id) do -- the operator of Lua would follow the locale of the server
      local byte, other_byte = string.byte(id, i), string.byte(other_id, i)
      if byte ~= other_byte then
        return byte > other_byte
      end
    end
    return #id > #other_id
  end

  local others, own_id = {}, id_of(own) -- the newest first
  local place, stored = 1, nil -- the place of the first one that is not later; what the list holds of this deployment
  for _, element in ipairs(redis.call('LRANGE', key, 0, is_newer and LOOKBACK - 1 or -1)) do
    if id_of(element) == own_id then
      if is_newer then -- it has another place so far: all are needed to write them again
        return compare_with_others(key, own, false, corrections, ttl)
      end
      stored = element
    else
      others[#others + 1] = element
      place = place == #others and is_later(element, own) and place + 1 or place
    end
  end

  local function describe_change()
    local previous, last = others[place], math.min(place + LOOKBACK - 1, #others)
    if not previous then
      return NOTHING_BEFORE, 'none'
    end
    local version, is_rollback, failure = version_of(own), false, nil
    local is_redeployment = version ~= nil and version == version_of(previous)
    for i = place + 1, is_redeployment and 0 or last do
      local has_run = version ~= nil and has_succeeded(others[i]) and version_of(others[i]) == version
      is_rollback = is_rollback or has_run
    end
    for i = place, last do -- the first of those that failed in a row
      if has_succeeded(others[i]) then
        break
      end
      failure = others[i]
    end
    failure = has_succeeded(own) and (failure or (is_rollback and previous)) or nil
    local recovery = failure and '{"failedDeploymentId":' .. id_of(failure)
      .. string.format(',"failedAt":%.0f,"afterMs":%.0f}', ended_at(failure), ended_at(own) - ended_at(failure))
    local change = '{"previous":' .. string.sub(line_of(previous), 33)
      .. string.format(',"sincePreviousMs":%.0f,"redeployment":%s,"rollback":%s,"recovery":%s}',
        ended_at(own) - ended_at(previous), tostring(is_redeployment), tostring(is_rollback), recovery or 'null')
    local kind = is_redeployment and '=' or is_rollback and '<' or ''
    return change, string.sub(own, 9, 23) .. checksum_of(previous) .. kind .. (failure and checksum_of(failure) or '')
  end

  -- The new list is written behind the old one, which is cut off then. If LTRIM is not permitted, the first one fails.
  local function write_history()
    local elements, codes = {}, {}
    table.insert(others, place, own)
    for i = 1, math.min(#others, KEPT) do
      elements[i] = corrections .. line_of(others[i]) .. '\n'
      codes[i] = i <= LOOKBACK and string.sub(others[i], 24, 23 + CODE) or nil
    end
    elements[1] = elements[1] .. table.concat(codes)
    redis.call('LTRIM', key, 0, KEPT - 1)
    redis.call('RPUSH', key, unpack(elements))
    redis.call('LTRIM', key, -#elements, -1)
  end

  local change, text = nil, ''
  if place <= LOOKBACK + 1 then
    change, text = describe_change()
  end
  local is_new = place == 1 and not stored
  if not is_new and place <= KEPT and (not stored or line_of(stored) ~= line_of(own)) then
    corrections = string.format('%08d', corrections + 1) -- the changes of later ones may be others now
    write_history()
  end
  redis.call('PEXPIRE', key, ttl)
  return change, text, corrections, is_new
end

local function update_history(key, line, mark, is_same, now, ttl)
  local newest = redis.call('LINDEX', key, 0)
  local own, change, text, is_new = '00000000' .. line .. '\n', NOTHING_BEFORE, 'none', true
  local corrections, newest_end, codes = '00000000', 0, ''
  if newest then
    local line_end = string.find(newest, '\n', 41, true)
    corrections, newest_end, codes = string.sub(newest, 1, 8), ended_at(newest), string.sub(newest, line_end + 1)
    if is_same and string.sub(mark, 1, MARKED_AT - 1) == corrections .. string.sub(own, 32, 39) then
      return nil, mark
    end
    local since = ended_at(own) - newest_end
    local ends_failure = string.sub(newest, 40, 40) == '-' and string.sub(own, 40, 40) == '+'
    local has_run_lately = string.find(codes, string.sub(own, 24, 23 + CODE), 1, true)
    local is_newer = mark == '' and since > 0
    if is_newer and not ends_failure and not has_run_lately then -- most deployments
      change = '{"previous":' .. string.sub(newest, 41, line_end - 1) .. string.format(',"sincePreviousMs":%.0f', since)
        .. ',"redeployment":false,"rollback":false,"recovery":null}'
      text = string.sub(own, 9, 23) .. string.sub(newest, 32, 39)
    else
      change, text, corrections, is_new = compare_with_others(key, own, is_newer, corrections, ttl)
    end
  end
  if is_new then
    codes = string.sub(own, 24, 23 + CODE) .. string.sub(codes, 1, CODE * (LOOKBACK - 1))
    local length = redis.call('LPUSH', key, corrections .. line .. '\n' .. codes)
    if length > MOST then
      redis.call('LTRIM', key, 0, KEPT - 1)
    end
    if length % 16 == 1 or now - newest_end > ttl / 64 then -- so the TTL is never more than a quarter too short
      redis.call('PEXPIRE', key, ttl)
    end
  end
  return change, corrections .. string.sub(own, 32, 39) .. text
end
