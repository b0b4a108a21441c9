-- Runs reading commands at one moment. ARGV: JSON list of commands, each a list of strings.
local replies = {}
for i, command in ipairs(cjson.decode(ARGV[1])) do replies[i] = redis.call(unpack(command)) end
return replies
