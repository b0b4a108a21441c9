-- What the scripts about leases share. TERMS holds `fence ttl token` of each lease, DEADLINE its end in lease time,
-- below zero while it is held past its end; HELD when a held one is looked at again; HOLDING how many each service has.

-- Lease time now: what the clock showed at its last tick, and the time since, if that is short enough to be believed.
local LONGEST_GAP = 2000
local function lease_clock()
  local clock = tonumber(redis.call('HGET', META, 'lease_clock') or '') or 0
  local seen = tonumber(redis.call('HGET', META, 'lease_seen') or '')
  local gap = seen and now_ms - seen
  if gap and gap >= 0 and gap <= LONGEST_GAP then return clock + gap, gap, 0 end
  return clock, 0, gap or 0
end

local function terms_of(id)
  local terms = redis.call('HGET', TERMS, id)
  if terms then return terms:match('^(%d+) (%d+) (.*)$') end
end

-- The stored lease's JSON and endpoint keys. A corrupt value has no endpoints: they stay, and anyone may take them.
local function members_of(id)
  local raw = redis.call('HGET', VALUES.lease, id)
  if not raw then return 'null', {} end
  local ok, lease = pcall(cjson.decode, raw:match('^%d+ (.*)$') or '')
  if not ok or type(lease) ~= 'table' or type(lease.endpoints) ~= 'table' then return json_of(raw), {} end
  return raw:match('^%d+ (.*)$'), lease.endpoints
end

local function services_of(keys)
  local services, known = {}, {}
  for _, key in ipairs(keys) do
    local service = service_of(key)
    if not known[service] then services[#services + 1] = service end
    known[service] = true
  end
  return services
end

-- How many leases each service has, beside the endpoints in USES.
local function count_lease(keys, by)
  for _, service in ipairs(services_of(keys)) do count_use('leases:' .. service, by) end
end

local function count_held(keys, by)
  for _, service in ipairs(services_of(keys)) do
    if redis.call('HINCRBY', HOLDING, service, by) <= 0 then redis.call('HDEL', HOLDING, service) end
  end
end

-- The lease is renewed or ended: nothing is held of it any more.
local function let_go(id, keys)
  if redis.call('ZREM', HELD, id) == 1 then count_held(keys, -1) end
end

-- What is counted of a lease's services, when its endpoints become others; {} for none.
local function recount(id, old_keys, keys)
  count_lease(old_keys, -1)
  let_go(id, old_keys)
  count_lease(keys, 1)
end

-- `{"lease":...,"endpoints":{...}}` for the audit trail.
local function with_endpoints(lease, endpoints)
  return '{"lease":' .. lease .. ',"endpoints":{' .. table.concat(endpoints, ',') .. '}}'
end

-- Removes a leased endpoint; its audit text, or nil when it was not there or is another's.
local function end_endpoint(key, id)
  local _, lease = whereabouts(key)
  if lease ~= id then return nil end
  local raw = redis.call('HGET', VALUES.endpoint, key)
  unlink_endpoint(key)
  drop('endpoint', key)
  tell('endpoint', key)
  return cjson.encode(key) .. ':' .. (raw and json_of(raw) or 'null')
end

local function end_lease(id, actor, action)
  start()
  local lease, keys = members_of(id)
  local before = {}
  for _, key in ipairs(keys) do before[#before + 1] = end_endpoint(key, id) end
  recount(id, keys, {})
  drop('lease', id)
  redis.call('HDEL', TERMS, id)
  redis.call('ZREM', DEADLINE, id)
  finish('audit_leases', actor, action, 'lease', id, with_endpoints(lease, before))
end
