-- A node says that it is there, and what it sees; one of those that are there builds.
-- ARGV: node, group, '1' where it may build, news for the stream or '', all its votes or '' where they are as they were.
local node, group, may, news, votes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local BUILDS_MS, GONE_MS, KEPT = 1200, 60000, 4096

redis.call('HSET', OBSERVERS, node, digits(now_ms) .. ' ' .. group)
if votes ~= '' then redis.call('HSET', VOTES, node, votes) end
if news ~= '' then redis.call('XADD', SEEN, 'MAXLEN', '~', KEPT, '*', 'node', node, 'news', news) end

local builder = redis.call('HGET', META, 'builder') or ''
local till = tonumber(redis.call('HGET', META, 'builder_till') or '0')
-- An end too far ahead is of a clock that was set back since.
local free = builder == '' or till < now_ms or till > now_ms + BUILDS_MS
if builder == node and may ~= '1' then
  builder, free = '', false
  redis.call('HDEL', META, 'builder', 'builder_till')
elseif may == '1' and (free or builder == node) then
  if builder ~= node then redis.call('HINCRBY', META, 'builder_fence', 1) end
  builder = node
  redis.call('HSET', META, 'builder', node, 'builder_till', digits(now_ms + BUILDS_MS))
elseif free then
  builder = ''
end

local there = {}
local all = redis.call('HGETALL', OBSERVERS)
for at = 1, #all, 2 do
  local seen, of = all[at + 1]:match('^(%d+) (.*)$')
  local ago = seen and now_ms - tonumber(seen)
  if not ago or ago > GONE_MS or ago < -GONE_MS then
    redis.call('HDEL', OBSERVERS, all[at])
    redis.call('HDEL', VOTES, all[at])
  else
    there[#there + 1] = all[at]
    there[#there + 1] = digits(math.max(0, ago))
    there[#there + 1] = of
  end
end
return {'ok', redis.call('HGET', META, 'epoch'), builder, redis.call('HGET', META, 'builder_fence') or '0', there}
