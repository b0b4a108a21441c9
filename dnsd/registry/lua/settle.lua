-- Keeps what the builder makes of measurements. ARGV: builder, its fence, which of MEASURED, then fields and values;
-- an empty value deletes the field.
if redis.call('HGET', META, 'builder') ~= ARGV[1] or redis.call('HGET', META, 'builder_fence') ~= ARGV[2] then
  return {'fenced'}
end
local key = MEASURED[ARGV[3]]
for at = 4, #ARGV, 2 do
  if ARGV[at + 1] == '' then
    redis.call('HDEL', key, ARGV[at])
  else
    redis.call('HSET', key, ARGV[at], ARGV[at + 1])
  end
end
return {'ok'}
