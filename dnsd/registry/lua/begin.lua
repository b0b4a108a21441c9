-- Gives the store an epoch if it has none. ARGV: the epoch to take.
-- Streams that outlived the other keys keep their ids, so the version goes on after them.
if redis.call('HEXISTS', META, 'epoch') == 1 then return {'ok'} end
local version = tonumber(redis.call('HGET', META, 'version') or '0') or 0
for _, stream in pairs(STREAMS) do
  local last = redis.call('XREVRANGE', stream[1], '+', '-', 'COUNT', 1)[1]
  if last then version = math.max(version, tonumber(last[1]:match('^%d+'))) end
end
redis.call('HSET', META, 'epoch', ARGV[1], 'version', string.format('%.0f', version), 'chain', redis.sha1hex(ARGV[1]))
return {'ok'}
