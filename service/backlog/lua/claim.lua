-- Lease the tickets that are due, as many as calls may be made now. (enrich/room.lua stands before.)
-- KEYS     1 backlog  2 tickets  3 budget  4 calls  5 callers  6 bell  7 mark of this act
--          8 counts
-- ARGV     1 how many at most  2 lease (ms)  3 life of a call (ms)  4 share of the limit that is ours
--          5 how many more at most that share a call with one of these
-- Returns  {now, ms to sleep, then fours: job, fence, ticket, job whose call it shares or ""}
-- Atomic   two workers never lease one ticket, and no ticket is handed out without its call.
-- A score is a time in ms: a whole one says when a ticket is due; one with a part of a millisecond
-- is a lease and says when that ends. Due again after a lease means that its worker died.
--
-- One list call serves many: all that seek a deployment of one project and environment share it.
-- So do those that know their deployment's id, while more is due than calls may be made.
local FURTHER = 100 -- jobs looked at behind those wanted: one route used up must not hold up the other
local FEWEST = 3 -- tickets with an id that are worth a list
local SUSPECT = 3 -- crashes after which a ticket is handed out alone, lest it take others with it

local wanted, lease, life, company = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[5])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- The part is the microsecond: leases of one ticket begun in the same millisecond differ too.
local fence = now + lease + (clock[2] % 1000 + 1) / 1024
local reply = { now, 0 }

local function hand_out(job, stored, lead)
  local n = #reply
  reply[n + 1], reply[n + 2] = job, string.format('%.10f', fence)
  reply[n + 3], reply[n + 4] = stored, lead
end

local done = redis.call('GET', KEYS[7])
if done then -- this very act was done before; only its reply was lost
  local taken = cmsgpack.unpack(done)
  fence = tonumber(table.remove(taken))
  for i = 1, #taken, 2 do
    if tonumber(redis.call('ZSCORE', KEYS[1], taken[i]) or '0') == fence then
      hand_out(taken[i], redis.call('HGET', KEYS[2], taken[i]) or '', taken[i + 1])
    end
  end
  return reply
end

local function look(offset, count)
  return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', offset, count)
end
local function name_party(job) -- "find:<project>/<environment>/"
  return string.match(job, '^find:[^/]*/[^/]*/')
end

local budget = open_budget(KEYS[3], KEYS[4], KEYS[5], now, tonumber(ARGV[4]))
local rooms = {}
local function room(route)
  local known = rooms[route]
  if not known then
    known = { budget.room(route) }
    rooms[route] = known
  end
  return known[1], known[2]
end

-- A dead worker's ticket may stand far behind those looked at; its call must not hold up everybody.
-- A list that goes on is a call of its own, named after the job that it was begun for.
local function forget_the_dead()
  for _, name in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
    local job = string.match(name, '^list for (.*)$') or name
    local score = tonumber(redis.call('ZSCORE', KEYS[1], job) or '0')
    if score % 1 ~= 0 and score <= now then
      budget.forget(name)
      rooms = {}
    end
  end
end
if room('get') < 1 or room('list') < 1 then
  forget_the_dead()
end

local due = look(0, wanted + FURTHER)
local may_list = company > 0 and room('list') >= 1
local scarce = may_list and #due / 2 > room('get')
local shared = scarce
for i = 1, may_list and #due or 0, 2 do
  shared = shared or name_party(due[i]) ~= nil
end
if shared and #due / 2 == wanted + FURTHER then
  for _, part in ipairs(look(#due / 2, company)) do
    due[#due + 1] = part
  end
end

-- What the tickets that know an id say of where it was deployed, and how many say the same.
local parties, sizes = {}, {}
local function read_party(stored)
  -- Header and array's head go first: cmsgpack knows no binary, so only what stands before is read.
  local from = string.byte(stored, 15) == 220 and 17 or 15
  local known, _, _, _, _, project, environment, application =
    pcall(cmsgpack.unpack_limit, stored, 6, from)
  local told = type(project) == 'string' and type(environment) == 'string'
  if known and told and type(application) == 'string' then
    return 'id:' .. project .. '/' .. environment .. '/'
  end
  return nil
end
for i = 1, scarce and #due or 0, 2 do
  if string.sub(due[i], 1, 3) == 'id:' then
    local party = read_party(redis.call('HGET', KEYS[2], due[i]) or '')
    if party then
      parties[due[i]] = party
      sizes[party] = (sizes[party] or 0) + 1
    end
  end
end
local function find_party(job, crashes)
  if not may_list or crashes >= SUSPECT then
    return nil
  end
  local party = parties[job] or name_party(job)
  return (not sizes[party] or sizes[party] >= FEWEST) and party or nil
end

local leads, taken, leased, begun, sleep = {}, {}, {}, 0, nil
local more = 0 -- leases that are new; one taken over from the dead is counted already
for i = 1, #due, 2 do
  local job, crashed = due[i], tonumber(due[i + 1]) % 1 ~= 0
  if crashed then
    budget.forget(job) -- its worker is dead, and so are the calls that it had in flight
    budget.forget('list for ' .. job)
    rooms = {}
  end
  local stored = redis.call('HGET', KEYS[2], job)
  local crashes = 0
  if crashed and stored and #stored >= 14 then
    local generation, before = struct.unpack('>I4I2', stored)
    crashes = math.min(before + 1, 65535)
    stored = struct.pack('>I4I2', generation, crashes) .. string.sub(stored, 7)
  end
  local party = stored and find_party(job, crashes)
  local lead = party and leads[party]
  local takes = false
  if not stored then
    redis.call('ZREM', KEYS[1], job) -- a job without a ticket: nothing can be known of it
    more = more - (crashed and 1 or 0)
  elseif lead then
    if company == 0 then
      sleep = 0
      break
    end
    takes, company = true, company - 1
  else
    local is_known = string.sub(job, 1, 3) == 'id:'
    local free, opens = room((party or not is_known) and 'list' or 'get')
    if free < 1 and party and is_known then
      party = nil
      free, opens = room('get')
    end
    if free < 1 then
      sleep = math.min(sleep or math.huge, opens - now)
    elseif begun == wanted then
      sleep = 0
      if next(leads) == nil then
        break
      end
    else
      takes, begun, rooms = true, begun + 1, {}
      budget.take(job, now + life)
      if party then
        leads[party] = job
      end
    end
  end
  if takes then
    if crashed then
      redis.call('HSET', KEYS[2], job, stored)
    else
      more = more + 1
    end
    leased[#leased + 1], leased[#leased + 2] = fence, job
    taken[#taken + 1], taken[#taken + 2] = job, lead or ''
    hand_out(job, stored, lead or '')
  end
end

if more ~= 0 then
  redis.call('HINCRBY', KEYS[8], 'leased', more)
end
if begun > 0 then
  redis.call('ZADD', KEYS[1], unpack(leased))
  taken[#taken + 1] = string.format('%.10f', fence)
  redis.call('SET', KEYS[7], cmsgpack.pack(taken), 'PX', lease)
end
if sleep == 0 and redis.call('LLEN', KEYS[6]) == 0 then
  redis.call('LPUSH', KEYS[6], '1') -- more is due than one worker takes: wake another
  redis.call('PEXPIRE', KEYS[6], 60000)
end
if not sleep then
  local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
  sleep = first[2] and math.max(0, tonumber(first[2]) - now) or -1
end
reply[2] = math.ceil(sleep)
return reply
