-- Puts and deletes objects, all or none.
-- ARGV: actor, action, expected version or '', then seven for each change:
--   op (put, delete), kind, key, json, match, site of an endpoint, extra.
--   match: '' only if new, '-' only if absent, '*' whatever is there, else '=' and the etag of what is there.
--   extra: for a service or endpoint the rule for its owned types, for an override its seconds.
local actor, action, expected = ARGV[1], ARGV[2], ARGV[3]
local current = redis.call('HGET', META, 'version')
if expected ~= '' and expected ~= current then return {'stale', current} end

local list, put, gone, moved, faults = {}, {}, {}, {}, {'faults'}
local function fault(i, code, detail)
  faults[#faults + 1] = tostring(i - 1)
  faults[#faults + 1] = code
  faults[#faults + 1] = tostring(detail or '')
end
local function move(what, by) moved[what] = (moved[what] or 0) + by end

for at = 4, #ARGV, 7 do
  local c = {op = ARGV[at], kind = ARGV[at + 1], key = ARGV[at + 2], json = ARGV[at + 3], match = ARGV[at + 4],
    site = ARGV[at + 5], extra = ARGV[at + 6]}
  c.old = redis.call('HGET', VALUES[c.kind], c.key)
  local name = c.kind .. '/' .. c.key
  if c.op == 'put' then put[name] = true else gone[name] = true end
  if c.kind == 'endpoint' then
    local site, lease = whereabouts(c.key)
    if site then
      move('site/' .. site, -1)
      move('service/' .. service_of(c.key), -1)
    end
    c.lease = lease
    if c.op == 'put' then
      move('site/' .. c.site, 1)
      move('service/' .. service_of(c.key), 1)
    end
  end
  list[#list + 1] = c
end

local function exists(kind, key)
  local name = kind .. '/' .. key
  if put[name] then return true end
  if gone[name] or not VALUES[kind] then return false end
  return redis.call('HEXISTS', VALUES[kind], key) == 1
end

local function check_match(i, c)
  if c.op == 'delete' and not c.old then return fault(i, 'missing') end
  if c.match == '*' then return end
  if c.match == '' then
    if c.old then fault(i, 'required') end
  elseif c.match == '-' then
    if c.old then fault(i, 'exists') end
  elseif not c.old or '=' .. etag(c.old) ~= c.match then
    fault(i, 'mismatch')
  end
end

for i, c in ipairs(list) do
  check_match(i, c)
  if c.kind == 'endpoint' then
    if c.lease and c.lease ~= '' and redis.call('HEXISTS', TERMS, c.lease) == 1 then fault(i, 'held', c.lease) end
    if c.op == 'put' then
      if not exists('site', c.site) then fault(i, 'site', c.site) end
      if not exists('service', service_of(c.key)) then fault(i, 'service', service_of(c.key)) end
    end
  elseif c.kind == 'override' and c.op == 'put' then
    local target, name = c.key:match('^(%l+):(.*)$')
    if not exists(target, name) then fault(i, 'target', target .. ' ' .. name) end
  elseif c.op == 'delete' and (c.kind == 'site' or c.kind == 'service') then
    local uses = tonumber(redis.call('HGET', USES, c.kind .. ':' .. c.key) or '0') + (moved[c.kind .. '/' .. c.key] or 0)
    if uses > 0 then fault(i, 'used', uses) end
  end
end
if #faults > 1 then return faults end

local function write_put(c)
  local owned
  if c.kind == 'override' then
    local ends = digits(now_ms + tonumber(c.extra) * 1000)
    c.json = c.json:sub(1, -2) .. ',"until_ms":' .. ends .. '}'
    redis.call('ZADD', UNTIL, ends, c.key)
  elseif c.kind == 'endpoint' then
    link_endpoint(c.key, c.site, '')
    owned = own(service_of(c.key), c.extra)
  elseif c.kind == 'service' then
    owned = own(c.key, c.extra)
  end
  tell(c.kind, c.key, c.json, owned)
  return keep(c.kind, c.key, c.json)
end

local function write_delete(c)
  if c.kind == 'override' then redis.call('ZREM', UNTIL, c.key) end
  if c.kind == 'endpoint' then unlink_endpoint(c.key) end
  if c.kind == 'service' then
    redis.call('HDEL', OWNED, c.key)
    drop('verdict', c.key)
  end
  tell(c.kind, c.key)
  drop(c.kind, c.key)
  return ''
end

start()
local before, after, raw = {}, {}, ''
local function write(c)
  raw = c.op == 'put' and write_put(c) or write_delete(c)
  before[#before + 1] = cjson.encode(c.kind .. '/' .. c.key) .. ':' .. (c.old and json_of(c.old) or 'null')
  after[#after + 1] = cjson.encode(c.kind .. '/' .. c.key) .. ':' .. (c.op == 'put' and c.json or 'null')
end
-- Endpoints last, so that what one adds to its service's owned types is not set back by the service's own put.
for _, c in ipairs(list) do if c.kind ~= 'endpoint' then write(c) end end
for _, c in ipairs(list) do if c.kind == 'endpoint' then write(c) end end
if action == 'apply' then
  finish('audit', actor, action, '', '', '{' .. table.concat(before, ',') .. '}', '{' .. table.concat(after, ',') .. '}')
  return {'ok', version_text, '', '0'}
end
local c = list[1]
finish('audit', actor, action, c.kind, c.key, c.old and json_of(c.old), c.op == 'put' and c.json)
return {'ok', version_text, raw ~= '' and etag(raw) or '', c.old and '0' or '1'}
