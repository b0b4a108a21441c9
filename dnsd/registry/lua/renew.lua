-- Moves deadlines; an event only where a load level changes.
-- ARGV: actor, then for each lease: id, fence, number of loads, and two for each load: endpoint key, share 0..1.
local clock = lease_clock()
local some_held = redis.call('ZCOUNT', HELD, '-inf', '+inf') > 0
local reply, levels, seen = {'ok'}, {}, {}

-- Levels are eighths; a level is left only when the share is 0.03 past its boundary, so that noise at one is no event.
local function level_of(old, share)
  local up, down = math.floor((share - 0.03) * 8), math.floor((share + 0.03) * 8)
  if up > old then return math.min(up, 7) end
  if down < old then return math.max(down, 0) end
  return old
end

local function note_load(id, key, share)
  local _, lease = whereabouts(key)
  if lease ~= id then return end
  local known = seen[key]
  if not known then
    local raw = redis.call('HGET', VALUES.endpoint, key) or ''
    local json = raw:match('^%d+ (.*)$') or ''
    known = {key = key, json = json, old = tonumber(json:match('"load":(%d)'))}
    known.level = known.old
    seen[key] = known
    levels[#levels + 1] = known
  end
  if known.old then known.level = level_of(known.level, share) end
end

local at = 2
while at <= #ARGV do
  local id, fence, loads = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local held, ttl = terms_of(id)
  if held == fence then
    redis.call('ZADD', DEADLINE, digits(clock + tonumber(ttl) * 1000), id)
    if some_held and redis.call('ZSCORE', HELD, id) then
      local _, keys = members_of(id)
      let_go(id, keys)
    end
    for j = at + 3, at + 1 + 2 * loads, 2 do note_load(id, ARGV[j], tonumber(ARGV[j + 1])) end
    reply[#reply + 1] = held
    reply[#reply + 1] = digits(tonumber(ttl) * 1000)
  else
    reply[#reply + 1] = held or '0'
    reply[#reply + 1] = '-1'
  end
  at = at + 3 + 2 * loads
end

local before, after = {}, {}
for _, known in ipairs(levels) do
  if known.level ~= known.old then
    if #before == 0 then start() end
    local json = known.json:gsub('"load":%d', '"load":' .. known.level, 1)
    keep('endpoint', known.key, json)
    tell('endpoint', known.key, json, tonumber(redis.call('HGET', OWNED, service_of(known.key)) or '0'))
    before[#before + 1] = cjson.encode(known.key) .. ':' .. known.old
    after[#after + 1] = cjson.encode(known.key) .. ':' .. known.level
  end
end
if #before > 0 then
  finish('audit_leases', ARGV[1], 'load', '', '', '{' .. table.concat(before, ',') .. '}',
    '{' .. table.concat(after, ',') .. '}')
end
return reply
