-- Moves the lease clock and ends what is over, or holds it where too much would end at once (`hold.lua`).
-- ARGV: actor, most leases and overrides to look at in one call.
local actor, most = ARGV[1], tonumber(ARGV[2])
local clock, advanced, shifted = lease_clock()
redis.call('HSET', META, 'lease_clock', digits(clock), 'lease_seen', digits(now_ms))

local due = redis.call('ZRANGEBYSCORE', DEADLINE, '0', digits(clock), 'WITHSCORES', 'LIMIT', 0, most)
local over, caught, memory = {}, {}, {all = #due > 0 and all_leases()}
for i = 1, #due, 2 do
  local id = due[i]
  local _, ttl = terms_of(id)
  local _, keys = members_of(id)
  if among_many(clock, tonumber(ttl or '0'), keys, memory) then
    caught[#caught + 1] = {id = id, due = tonumber(due[i + 1]), keys = keys}
  else
    over[#over + 1] = id
  end
end
local ids = {}
for i, one in ipairs(caught) do
  hold(one.id, one.due, clock, one.keys)
  ids[i] = one.id
end
if #ids > 0 then tell_held(actor, ids) end

local looks = redis.call('ZRANGEBYSCORE', HELD, digits(-clock), digits(clock), 'LIMIT', 0, most)
for _, id in ipairs(looks) do if hold_is_over(id, clock) then over[#over + 1] = id end end
for _, id in ipairs(over) do end_lease(id, actor, 'expire') end

local overrides = redis.call('ZRANGEBYSCORE', UNTIL, '-inf', digits(now_ms), 'LIMIT', 0, most)
for _, key in ipairs(overrides) do
  local raw = redis.call('HGET', VALUES.override, key)
  start()
  redis.call('ZREM', UNTIL, key)
  drop('override', key)
  tell('override', key)
  finish('audit', actor, 'expire', 'override', key, raw and json_of(raw))
end
local more = #due == 2 * most or #looks == most or #overrides == most
return {'ok', digits(advanced), digits(shifted), over, overrides, ids, all_held(), more and 1 or 0}
