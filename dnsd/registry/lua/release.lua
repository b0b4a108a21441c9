-- Ends a lease and its endpoints. ARGV: actor, id, fence or '', match as in write.lua.
local actor, id, fence, match = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local raw = redis.call('HGET', VALUES.lease, id)
local held = terms_of(id)
if not raw and not held then return {'missing'} end
if fence ~= '' and fence ~= held then return {'fenced', held or '0'} end
if match == '' then return {'required'} end
if match ~= '*' and '=' .. etag(raw or '') ~= match then return {'mismatch'} end
end_lease(id, actor, 'release')
return {'ok', version_text}
