-- A node says that it is there, and what it sees; one of those that are there builds.
-- ARGV: node, group, '1' where it may build ('2': and has decided on all there is), news for the stream or '', all its votes or '' where they are as they were.
local node, group, may, news, votes = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local BUILDS_MS, AWAY_MS, GONE_MS = 1200, 10000, 60000

if group ~= '-' then redis.call('HSET', OBSERVERS, node, digits(now_ms) .. ' ' .. group) end
if votes ~= '' then redis.call('HSET', VOTES, node, votes) end
if news ~= '' then say(node, news) end

local builder = redis.call('HGET', META, 'builder') or ''
local till = tonumber(redis.call('HGET', META, 'builder_till') or '0')
-- An end too far ahead is of a clock that was set back since.
local free = builder == '' or till < now_ms or till > now_ms + BUILDS_MS
if builder == node and may == '' then
  builder, free = '', false
  redis.call('HSET', META, 'builder', '', 'builder_till', digits(now_ms))
elseif may ~= '' and (free or builder == node) then
  if builder ~= node then redis.call('HINCRBY', META, 'builder_fence', 1) end
  -- What was decided long ago may be wrong by now; until it is decided anew nodes judge by themselves.
  if now_ms > till + AWAY_MS then redis.call('HDEL', META, 'builder_ready') end
  if may == '2' then redis.call('HSET', META, 'builder_ready', '1') end
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
    there[#there + 1] = seen
    there[#there + 1] = of
  end
end
local ready = redis.call('HGET', META, 'builder_ready') or ''
return {'ok', redis.call('HGET', META, 'epoch'), builder, redis.call('HGET', META, 'builder_fence') or '0', ready, there}
