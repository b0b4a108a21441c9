-- One page of a kind in the order of keys. ARGV: kind, first and last bound as ZRANGEBYLEX takes them, limit.
local kind, limit = ARGV[1], tonumber(ARGV[4])
local reply = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', NAMES, ARGV[2], ARGV[3], 'LIMIT', 0, limit)) do
  local key = name:sub(#kind + 2)
  reply[#reply + 1] = key
  reply[#reply + 1] = redis.call('HGET', VALUES[kind], key) or ''
  reply[#reply + 1] = kind == 'lease' and redis.call('ZSCORE', DEADLINE, key) or ''
end
return reply
