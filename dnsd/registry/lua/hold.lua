-- When so many leases end at once that it is more likely our fault than theirs. All times are lease time, in ms.

local NEAR = 5000           -- ends so far apart count as at once
local SCANNED = 1000        -- most leases whose services are looked up in one call
local LOOK = 30000          -- a held lease is looked at again
local CHANCE = 30000        -- least time that one left over is given, when what held it is past
local LONGEST = 3600000     -- a lease is held while others of its service or the fleet live
local LONGEST_DARK = 86400000  -- and while next to none does: as long as last good answers last

-- More than a tenth, and at least three of them or all; a single one never.
local function many(count, all) return count > 1 and count >= math.min(3, all) and count * 10 > all end

local function between(key, from, to) return redis.call('ZCOUNT', key, digits(from), digits(to)) end

local function leases_of(service) return tonumber(redis.call('HGET', USES, 'leases:' .. service) or '0') end

local function all_leases() return redis.call('ZCOUNT', DEADLINE, '-inf', '+inf') end
local function all_held() return redis.call('ZCOUNT', HELD, '-inf', '+inf') end

-- How far ahead an end counts as near: no lease that is renewed in the first half of its time is ever so near its end.
local function ahead_of(ttl) return math.min(NEAR, ttl * 500) end

-- Ends of held leases lie below zero, the latest first.
local function held_since(clock) return math.min(NEAR - clock, -1) end

local function note_near(near, id, at)
  local _, keys = members_of(id)
  for _, service in ipairs(services_of(keys)) do
    near[service] = near[service] or {}
    table.insert(near[service], at)
  end
end

-- For each service the ends near the clock: those to come (the first of them, and how many each stands for), those that
-- were held just now.
local function near_ends(clock)
  local near = {soon = {}, held = {}, weight = 1}
  local soon = redis.call('ZRANGEBYSCORE', DEADLINE, '0', digits(clock + NEAR), 'WITHSCORES', 'LIMIT', 0, SCANNED)
  for i = 1, #soon, 2 do note_near(near.soon, soon[i], tonumber(soon[i + 1])) end
  if #soon == 2 * SCANNED then near.weight = between(DEADLINE, 0, clock + NEAR) / SCANNED end
  local held = redis.call('ZRANGEBYSCORE', DEADLINE, digits(-clock), digits(held_since(clock)), 'LIMIT', 0, SCANNED)
  for _, id in ipairs(held) do note_near(near.held, id, 0) end
  return near
end

local function many_of_service(near, service, until_ms)
  local soon = 0
  for _, at in ipairs(near.soon[service] or {}) do if at <= until_ms then soon = soon + 1 end end
  local count = math.floor(soon * near.weight) + #(near.held[service] or {})
  return many(count, math.max(count, leases_of(service)))
end

-- Whether a lease whose time is over ends together with too many others, of the fleet or of a service of its.
local function among_many(clock, ttl, keys, memory)
  local until_ms = clock + ahead_of(ttl)
  memory.fleet = memory.fleet or {}
  if memory.fleet[ttl] == nil then
    local count = between(DEADLINE, 0, until_ms) + between(DEADLINE, -clock, held_since(clock))
    memory.fleet[ttl] = many(count, memory.all)
  end
  if memory.fleet[ttl] then return true end
  memory.near = memory.near or near_ends(clock)
  memory.services = memory.services or {}
  for _, service in ipairs(services_of(keys)) do
    local name = ttl .. ' ' .. service
    if memory.services[name] == nil then memory.services[name] = many_of_service(memory.near, service, until_ms) end
    if memory.services[name] then return true end
  end
  return false
end

-- Whether of a held lease's service, or of the fleet, so many are still held.
local function still_many(keys)
  if many(all_held(), all_leases()) then return true end
  for _, service in ipairs(services_of(keys)) do
    local held = tonumber(redis.call('HGET', HOLDING, service) or '0')
    if many(held, math.max(held, leases_of(service))) then return true end
  end
  return false
end

-- Next to nobody renews: whatever it is, it is not the instances.
local function dark()
  local held = all_held()
  return held > 1 and held * 10 > all_leases() * 9
end

local function hold(id, due, clock, keys)
  redis.call('ZADD', DEADLINE, digits(-due), id)
  redis.call('ZADD', HELD, digits(clock + NEAR), id)
  count_held(keys, 1)
end

-- The hold in the audit trail. A version needs an event: an endpoint's, as it is.
local function tell_held(actor, ids)
  for _, id in ipairs(ids) do
    local _, keys = members_of(id)
    local key = keys[1]
    local raw = key and redis.call('HGET', VALUES.endpoint, key)
    local json = raw and raw:match('^%d+ (.*)$')
    if json and pcall(cjson.decode, json) then
      start()
      tell('endpoint', key, json, tonumber(redis.call('HGET', OWNED, service_of(key)) or '0'))
      finish('audit_leases', actor, 'hold', 'lease', id, nil, cjson.encode({leases = ids}))
      return
    end
  end
end

-- What becomes of a held lease that is looked at: true when it is to end. One on its last chance has its look below zero.
local function hold_is_over(id, clock)
  local due = -tonumber(redis.call('ZSCORE', DEADLINE, id) or '0')
  local _, ttl = terms_of(id)
  local _, keys = members_of(id)
  local age = clock - due
  if age >= LONGEST_DARK then return true end
  local last = tonumber(redis.call('ZSCORE', HELD, id)) < 0
  if dark() or (not last and age < LONGEST and still_many(keys)) then
    redis.call('ZADD', HELD, digits(clock + LOOK), id)
    return false
  end
  if last then return true end
  redis.call('ZADD', HELD, digits(-(clock + math.max(CHANCE, tonumber(ttl or '0') * 1000))), id)
  return false
end
