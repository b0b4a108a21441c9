-- Goes on with the state that is there, as an accepted one, and with a new epoch as a history of its own.
-- ARGV: actor, action, epoch it must have, epoch from now on ('' the same), version at least, '1' if a person accepts it.
local actor, action, expected, fresh, floor, accepted = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local epoch = redis.call('HGET', META, 'epoch')
local at = redis.call('HGET', META, 'version')
if epoch ~= expected then return {'stale', epoch, at} end
if fresh ~= '' then
  local higher = math.max(tonumber(at), tonumber(floor))
  redis.call('HSET', META, 'epoch', fresh, 'version', digits(higher), 'chain', redis.sha1hex(fresh))
  redis.call('HDEL', META, 'restoring')
end
start()
local now = fresh ~= '' and fresh or epoch
if accepted == '1' then redis.call('HSET', META, 'accepted', now .. ' ' .. version_text) end
finish('audit', actor, action, 'registry', now, '{"epoch":"' .. epoch .. '","version":' .. at .. '}',
  '{"epoch":"' .. now .. '","version":' .. version_text .. '}')
return {'ok', now, version_text}
