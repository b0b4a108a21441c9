-- Moves the lease clock and ends what is over. ARGV: actor, most leases and overrides to end in one call.
local actor, most = ARGV[1], tonumber(ARGV[2])
local clock, advanced, shifted = lease_clock()
redis.call('HSET', META, 'lease_clock', digits(clock), 'lease_seen', digits(now_ms))

local leases = redis.call('ZRANGEBYSCORE', DEADLINE, '-inf', digits(clock), 'LIMIT', 0, most)
for _, id in ipairs(leases) do end_lease(id, actor, 'expire') end
local overrides = redis.call('ZRANGEBYSCORE', UNTIL, '-inf', digits(now_ms), 'LIMIT', 0, most)
for _, key in ipairs(overrides) do
  local raw = redis.call('HGET', VALUES.override, key)
  start()
  redis.call('ZREM', UNTIL, key)
  drop('override', key)
  tell('override', key)
  finish('audit', actor, 'expire', 'override', key, raw and json_of(raw))
end
return {'ok', digits(advanced), digits(shifted), leases, overrides}
