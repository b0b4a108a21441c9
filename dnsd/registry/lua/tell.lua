-- Puts news that is no vote into the stream. ARGV: node, news.
say(ARGV[1], ARGV[2])
return {'ok'}
