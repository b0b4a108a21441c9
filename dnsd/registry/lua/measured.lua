-- Puts a node's measurements into the log. ARGV: the entry's octets.
append('rtt_log', RTT_BYTES, RTT_COUNT, '*', {'entry', ARGV[1]})
return {'ok'}
