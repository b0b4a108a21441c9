-- Keeps what the builder has decided. ARGV: builder, its fence, then two for each service: name, json or '' for none.
if redis.call('HGET', META, 'builder') ~= ARGV[1] or redis.call('HGET', META, 'builder_fence') ~= ARGV[2] then
  return {'fenced'}
end
local kept, after = {}, {}
for at = 3, #ARGV, 2 do
  local name, json = ARGV[at], ARGV[at + 1]
  -- The service may have gone meanwhile, and its verdict with it.
  local known = redis.call('HEXISTS', VALUES[json == '' and 'verdict' or 'service'], name) == 1
  if known then kept[#kept + 1] = at end
end
if #kept == 0 then return {'ok', redis.call('HGET', META, 'version')} end
start()
for _, at in ipairs(kept) do
  local name, json = ARGV[at], ARGV[at + 1]
  if json == '' then
    drop('verdict', name)
    tell('verdict', name)
  else
    keep('verdict', name, json)
    tell('verdict', name, json)
  end
  after[#after + 1] = cjson.encode(name)
end
finish('audit_leases', 'node:' .. ARGV[1], 'verdict', 'verdict', '', nil, '[' .. table.concat(after, ',') .. ']')
return {'ok', version_text}
