-- Writes back what a node serves. ARGV: actor, epoch it must have, trail, '1' if the leases that are there are older than
-- what is written back, then six for each object: kind, key, json, site, lease, extra.
--   json '': it is to be gone, for what is written back does not have it.
--   extra: of a service the rule for its owned types, of a lease its seconds, of an override its end in unix ms.
-- A lease comes back without its terms: its holder, who is told that there is none, acquires it again under a new fence,
-- and until then, or its end, its endpoints stay. What was leased or forced since the loss is newer, and stays.
local actor, expected, trail, older = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local epoch = redis.call('HGET', META, 'epoch')
if epoch ~= expected then return {'stale', epoch} end
redis.call('HSET', META, 'restoring', digits(now_ms))

local function newer(lease) return lease and lease ~= '' and older ~= '1' and redis.call('HEXISTS', TERMS, lease) == 1 end

local put = {}
function put.site() return true end
function put.service(c)
  own(c.key, c.extra)
  return true
end
function put.endpoint(c)
  local _, lease = whereabouts(c.key)
  if newer(lease) then return false end
  link_endpoint(c.key, c.site, c.lease)
  return true
end
function put.lease(c)
  if newer(c.key) then return false end
  local _, keys = members_of(c.key)
  recount(c.key, keys, cjson.decode(c.json).endpoints)
  redis.call('HDEL', TERMS, c.key)
  redis.call('ZADD', DEADLINE, digits(lease_clock() + tonumber(c.extra) * 1000), c.key)
  return true
end
function put.override(c)
  if redis.call('HEXISTS', VALUES.override, c.key) == 1 or tonumber(c.extra) <= now_ms then return false end
  redis.call('ZADD', UNTIL, c.extra, c.key)
  return true
end

local function take_away(c)
  if c.kind == 'endpoint' then unlink_endpoint(c.key) end
  if c.kind == 'override' then redis.call('ZREM', UNTIL, c.key) end
  if c.kind == 'service' then
    redis.call('HDEL', OWNED, c.key)
    drop('verdict', c.key)
  end
  if c.kind == 'lease' then
    local _, keys = members_of(c.key)
    recount(c.key, keys, {})
    redis.call('HDEL', TERMS, c.key)
    redis.call('ZREM', DEADLINE, c.key)
  end
  drop(c.kind, c.key)
  if c.kind ~= 'lease' then tell(c.kind, c.key) end
end

start()
local after = {}
for at = 5, #ARGV, 6 do
  local c = {kind = ARGV[at], key = ARGV[at + 1], json = ARGV[at + 2], site = ARGV[at + 3], lease = ARGV[at + 4],
    extra = ARGV[at + 5]}
  if c.json == '' then
    take_away(c)
    after[#after + 1] = cjson.encode(c.kind .. '/' .. c.key) .. ':null'
  elseif put[c.kind](c) then
    local owned = c.kind == 'service' and tonumber(c.extra:sub(2)) or nil
    if c.kind ~= 'lease' then tell(c.kind, c.key, c.json, owned) end
    keep(c.kind, c.key, c.json)
    after[#after + 1] = cjson.encode(c.kind .. '/' .. c.key) .. ':' .. c.json
  end
end
finish(trail, actor, 'restore', 'registry', epoch, nil, '{' .. table.concat(after, ',') .. '}')
return {'ok', version_text, digits(#after)}
