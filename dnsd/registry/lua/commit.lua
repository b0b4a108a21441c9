-- What every write shares. A script first checks, then calls start(), keeps and drops values, and ends with finish():
-- from start() on nothing may fail, for Redis does not undo what a failed script wrote.
if redis.call('HEXISTS', META, 'epoch') == 0 then return {'noepoch'} end

local EVENT_BYTES, EVENT_COUNT = 33554432, 65536
local AUDIT_BYTES, AUDIT_COUNT = 33554432, 50000
local SEEN_BYTES, SEEN_COUNT = 16777216, 4096
local RTT_BYTES, RTT_COUNT = 67108864, 8192
local version, version_text
local changes = {}

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function digits(number) return string.format('%.0f', number) end

local function start()
  version = redis.call('HINCRBY', META, 'version', 1)
  version_text = digits(version)
  changes = {}
end

-- A stored value is `version json`.
local function keep(kind, key, json)
  local raw = version_text .. ' ' .. json
  redis.call('HSET', VALUES[kind], key, raw)
  redis.call('ZADD', NAMES, 0, kind .. '/' .. key)
  return raw
end

local function drop(kind, key)
  redis.call('HDEL', VALUES[kind], key)
  redis.call('ZREM', NAMES, kind .. '/' .. key)
end

local function etag(raw) return redis.sha1hex(raw):sub(1, 16) end

-- The JSON of a stored value, for the audit trail: one that is no JSON goes in as a string.
local function json_of(raw)
  local json = raw:match('^%d+ (.*)$') or raw
  if pcall(cjson.decode, json) then return json end
  return cjson.encode(json)
end

local function tell(kind, key, json, owned)
  changes[#changes + 1] = table.concat(
    {'["', kind, '",', cjson.encode(key), ',', json or 'null', ',', owned and digits(owned) or 'null', ']'})
end

-- Appends to a stream and lets its oldest entries go once it is over its bounds.
local function append(name, max_bytes, max_count, id, fields)
  local stream, sizes = STREAMS[name][1], STREAMS[name][2]
  local size = 0
  for i = 2, #fields, 2 do size = size + #fields[i] end
  local count = redis.call('RPUSH', sizes, size)
  local total = redis.call('HINCRBY', META, name .. '_bytes', size)
  local trimmed = false
  while count > 1 and (total > max_bytes or count > max_count) do
    total = redis.call('HINCRBY', META, name .. '_bytes', -tonumber(redis.call('LPOP', sizes)))
    count, trimmed = count - 1, true
  end
  if trimmed then
    redis.call('XADD', stream, 'MAXLEN', '~', count, id, unpack(fields))
  else
    redis.call('XADD', stream, id, unpack(fields))
  end
end

-- What nodes say of what they see: no write, and so without version and chain.
local function say(node, news) append('seen', SEEN_BYTES, SEEN_COUNT, '*', {'node', node, 'news', news}) end

local function finish(trail, actor, action, kind, key, before, after)
  local body = '[' .. table.concat(changes, ',') .. ']'
  local chain = redis.sha1hex(redis.call('HGET', META, 'chain') .. '\n' .. version_text .. '\n' .. body)
  redis.call('HSET', META, 'chain', chain)
  append('events', EVENT_BYTES, EVENT_COUNT, version_text .. '-0', {'body', body, 'chain', chain})
  append(trail, AUDIT_BYTES, AUDIT_COUNT, version_text .. '-0', {'at', digits(now_ms), 'actor', actor, 'action', action,
    'kind', kind, 'key', key, 'before', before or '', 'after', after or ''})
end

-- Endpoints: INDEX holds `site|lease` of each, USES how many endpoints refer to a site or a service.
local function whereabouts(key)
  local at = redis.call('HGET', INDEX, key)
  if at then return at:match('^([^|]*)|(.*)$') end
end

local function service_of(key) return key:match('^(.*)/') or '' end

local function count_use(what, by)
  if redis.call('HINCRBY', USES, what, by) <= 0 then redis.call('HDEL', USES, what) end
end

local function unlink_endpoint(key)
  local site = whereabouts(key)
  if site then
    count_use('site:' .. site, -1)
    count_use('service:' .. service_of(key), -1)
    redis.call('HDEL', INDEX, key)
  end
end

local function link_endpoint(key, site, lease)
  unlink_endpoint(key)
  redis.call('HSET', INDEX, key, site .. '|' .. lease)
  count_use('site:' .. site, 1)
  count_use('service:' .. service_of(key), 1)
end

-- The record types a service owns as bits (A 1, AAAA 2): `+bits` adds, `=bits` sets.
local function own(service, rule)
  local had = tonumber(redis.call('HGET', OWNED, service) or '')
  local owned = tonumber(rule:sub(2))
  if rule:sub(1, 1) == '+' then owned = bit.bor(had or 0, owned) end
  if owned ~= had then redis.call('HSET', OWNED, service, owned) end
  return owned
end
