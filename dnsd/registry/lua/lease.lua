-- What the scripts about leases share. TERMS holds `fence ttl token` of each lease, DEADLINE its end in lease time.

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
  drop('lease', id)
  redis.call('HDEL', TERMS, id)
  redis.call('ZREM', DEADLINE, id)
  finish('audit_leases', actor, action, 'lease', id, with_endpoints(lease, before))
end
