-- The serials of transferred zones: each content, known by its digest, has one, and it is the same for every node.
-- ARGV, five for each zone: zone, digest, floor, the newest serial the asking node has served or '', and 1 if it has
-- served it with this very digest. A field of SERIALS holds `serial:digest` of the last contents, the newest last.
local KEPT = 16

-- RFC 1982: whether a comes after b.
local function ahead(a, b)
  local step = (a - b) % 4294967296
  return step > 0 and step < 2147483648
end

local function known_of(zone)
  local found = {}
  for serial, digest in (redis.call('HGET', SERIALS, zone) or ''):gmatch('(%d+):(%x+)') do
    found[#found + 1] = {serial = tonumber(serial) % 4294967296, digest = digest}
  end
  return found
end

local function remember(zone, known, digest, serial)
  local texts = {}
  for _, one in ipairs(known) do
    if one.digest ~= digest then texts[#texts + 1] = string.format('%.0f:%s', one.serial, one.digest) end
  end
  texts[#texts + 1] = string.format('%.0f:%s', serial, digest)
  while #texts > KEPT do table.remove(texts, 1) end
  redis.call('HSET', SERIALS, zone, table.concat(texts, ' '))
  return serial
end

local function serial_of(zone, digest, floor, served, same)
  local known, mine = known_of(zone), nil
  for _, one in ipairs(known) do
    if one.digest == digest then mine = one.serial end
  end
  -- What a node has moved on from and comes back to is new to its secondaries, however well it is known.
  if mine and not (served and ahead(served, mine)) then return mine end
  local last = #known > 0 and known[#known].serial
  if same and served then
    if last and ahead(last, served) then return served end
    return remember(zone, known, digest, served)
  end
  if served and not (last and ahead(last, served)) then last = served end
  if not last then return remember(zone, known, digest, floor) end
  return remember(zone, known, digest, ahead(floor, last) and floor or (last + 1) % 4294967296)
end

local reply = {}
for at = 1, #ARGV, 5 do
  local served = tonumber(ARGV[at + 3])
  reply[#reply + 1] = string.format(
    '%.0f', serial_of(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), served, ARGV[at + 4] == '1'))
end
return reply
