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
-- how the versions begin (CODE characters of a digest) of this deployment and of each one before it. In all elements
-- but the newest, only the line counts.
-- A line is: the end (ms, 15 digits), the digests of the version and of the line (10 characters each), "+" or "-",
-- and {"deploymentId":…,"version":…,"endedAt":…,"outcome":…}. So in an element they begin at 9, 24, 34, 44 and 45.
-- A change looks at the LOOKBACK deployments before. It is known while at most LOOKBACK later ones ended: then
-- nothing that it looks at was forgotten. A deployment that is put before others, or is another one than it was, is
-- a correction. While the number of corrections is the same, every deployment has the same ones before it.
-- A call that failed is repeated: then its deployment is in the list already, and is not added again.
local MARKED_AT = 19 -- before it stand the number of corrections and the digest of the line
local LOOKBACK, CODE = 25, 4
local KEPT, MOST = 56, 64 -- at least 51 are needed: a deployment, LOOKBACK before it and LOOKBACK after it

local function ended_at(element)
  return tonumber(string.sub(element, 9, 23))
end

-- Put a deployment among all that are remembered. Most calls do not need it, so its functions are defined in it.
local function insert_into_history(key, own, newest, ttl)
  local function version_of(element)
    return string.sub(element, 24, 33)
  end
  local function digest_of(element)
    return string.sub(element, 34, 43)
  end
  local function has_succeeded(element)
    return string.byte(element, 44) == 43
  end
  local function id_of(element) -- as JSON
    return string.sub(element, 61, string.find(element, ',"version":', 61, true) - 1)
  end
  local function line_of(element)
    return string.sub(element, 9, string.find(element, '\n', 45, true) - 1)
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

  -- All others, the newest first; place is that of the first one that is not later.
  local others, stored, place, own_id = {}, nil, 1, id_of(own)
  for _, element in ipairs(redis.call('LRANGE', key, 0, -1)) do
    if id_of(element) == own_id then
      stored = element
    else
      others[#others + 1] = element
      place = place == #others and is_later(element, own) and place + 1 or place
    end
  end

  -- The new list is written behind the old one, which is cut off then. If LTRIM is not permitted, the first one fails.
  local function write_history(corrections)
    local elements, codes = {}, {}
    table.insert(others, place, own)
    for i = 1, math.min(#others, KEPT) do
      elements[i] = corrections .. line_of(others[i]) .. '\n'
      codes[i] = i <= LOOKBACK and string.sub(version_of(others[i]), 1, CODE) or nil
    end
    elements[1] = elements[1] .. table.concat(codes)
    redis.call('LTRIM', key, 0, KEPT - 1)
    redis.call('RPUSH', key, unpack(elements))
    redis.call('LTRIM', key, -#elements, -1)
    table.remove(others, place)
  end

  -- Return the change as JSON, and what tells its mark from others.
  local function describe_change()
    local previous, last = others[place], math.min(place + LOOKBACK - 1, #others)
    if not previous then
      return '{"previous":null,"sincePreviousMs":null,"redeployment":false,"rollback":false,"recovery":null}', 'none'
    end
    local is_redeployment, is_rollback, failure = version_of(previous) == version_of(own), false, nil
    for i = place + 1, last do
      local has_run = has_succeeded(others[i]) and version_of(others[i]) == version_of(own)
      is_rollback = is_rollback or (has_run and not is_redeployment)
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
    local change = '{"previous":' .. string.sub(line_of(previous), 37)
      .. string.format(',"sincePreviousMs":%.0f,"redeployment":%s,"rollback":%s,"recovery":%s}',
        ended_at(own) - ended_at(previous), tostring(is_redeployment), tostring(is_rollback), recovery or 'null')
    local kind = is_redeployment and '=' or is_rollback and '<' or ''
    return change, string.sub(own, 9, 23) .. digest_of(previous) .. kind .. (failure and digest_of(failure) or '')
  end

  local corrections = newest and string.sub(newest, 1, 8) or '00000000'
  if place <= KEPT and not (stored and line_of(stored) == line_of(own)) then
    local is_correction = stored or place > 1 -- the changes of later ones may be others now
    corrections = string.format('%08d', corrections + (is_correction and 1 or 0))
    write_history(corrections)
  end
  redis.call('PEXPIRE', key, ttl)
  local change, text = nil, ''
  if place <= LOOKBACK + 1 then
    change, text = describe_change()
  end
  return change, corrections .. digest_of(own) .. text
end

local function update_history(key, line, mark, is_same, now, ttl)
  local own, newest = '00000000' .. line .. '\n', redis.call('LINDEX', key, 0)
  if not newest then
    return insert_into_history(key, own, nil, ttl)
  end
  local marked = string.sub(newest, 1, 8) .. string.sub(own, 34, 43)
  if is_same and string.sub(mark, 1, MARKED_AT - 1) == marked then
    return nil, mark
  end

  -- Most deployments end after all others, with a version that did not run lately. Then the newest element says all.
  local newest_end, line_end = ended_at(newest), string.find(newest, '\n', 45, true)
  local since = ended_at(own) - newest_end
  local ends_failure = string.byte(newest, 44) == 45 and string.byte(own, 44) == 43
  local code = string.sub(own, 24, 23 + CODE)
  if mark ~= '' or since <= 0 or ends_failure or string.find(newest, code, line_end, true) then
    return insert_into_history(key, own, newest, ttl)
  end
  local codes = code .. string.sub(newest, line_end + 1, line_end + CODE * (LOOKBACK - 1))
  local length = redis.call('LPUSH', key, string.sub(newest, 1, 8) .. line .. '\n' .. codes)
  if length > MOST then
    redis.call('LTRIM', key, 0, KEPT - 1)
  end
  if length % 16 == 1 or now - newest_end > ttl / 64 then -- so the TTL is never more than a quarter too short
    redis.call('PEXPIRE', key, ttl)
  end
  return '{"previous":' .. string.sub(newest, 45, line_end - 1) .. string.format(',"sincePreviousMs":%.0f', since)
    .. ',"redeployment":false,"rollback":false,"recovery":null}',
    marked .. string.sub(own, 9, 23) .. string.sub(newest, 34, 43)
end
