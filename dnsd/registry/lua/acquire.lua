-- Grants a lease over endpoints, in place of what the same holder had.
-- ARGV: actor, token, '1' to take over from another token, lease id, ttl in seconds, lease JSON without its fence,
--   then four for each endpoint: key, json, site, rule for its owned types.
local actor, token, take_over, id, ttl, lease_json = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local _, _, held_by = terms_of(id)
if held_by and held_by ~= token and take_over ~= '1' then return {'taken'} end

local faults, known = {'faults'}, {}
local function fault(i, code, detail)
  faults[#faults + 1] = tostring(i)
  faults[#faults + 1] = code
  faults[#faults + 1] = detail
end
local function exists(kind, key)
  local name = kind .. '/' .. key
  if known[name] == nil then known[name] = redis.call('HEXISTS', VALUES[kind], key) == 1 end
  return known[name]
end

local wanted, i = {}, 0
for at = 7, #ARGV, 4 do
  local key, site = ARGV[at], ARGV[at + 2]
  wanted[key] = true
  if not exists('site', site) then fault(i, 'site', site) end
  if not exists('service', service_of(key)) then fault(i, 'service', service_of(key)) end
  local there, lease = whereabouts(key)
  if there and lease ~= id and (lease == '' or redis.call('HEXISTS', TERMS, lease) == 1) then fault(i, 'held', lease) end
  i = i + 1
end
if #faults > 1 then return faults end

start()
local old_lease, old_keys = members_of(id)
local before, after, keys = {}, {}, {}
for _, key in ipairs(old_keys) do
  if not wanted[key] then before[#before + 1] = end_endpoint(key, id) end
end
for at = 7, #ARGV, 4 do
  local key, json, site, rule = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local raw = redis.call('HGET', VALUES.endpoint, key)
  local old = raw and json_of(raw)
  if old ~= json then
    if old then before[#before + 1] = cjson.encode(key) .. ':' .. old end
    after[#after + 1] = cjson.encode(key) .. ':' .. json
  end
  link_endpoint(key, site, id)
  keys[#keys + 1] = key
  tell('endpoint', key, json, own(service_of(key), rule))
  keep('endpoint', key, json)
end
recount(id, old_keys, keys)
local deadline = digits(lease_clock() + tonumber(ttl) * 1000)
lease_json = lease_json:sub(1, -2) .. ',"fence":' .. version_text .. '}'
keep('lease', id, lease_json)
redis.call('HSET', TERMS, id, version_text .. ' ' .. ttl .. ' ' .. token)
redis.call('ZADD', DEADLINE, deadline, id)
finish('audit_leases', actor, 'acquire', 'lease', id,
  (old_lease ~= 'null' or #before > 0) and with_endpoints(old_lease, before), with_endpoints(lease_json, after))
return {'ok', version_text, deadline}
