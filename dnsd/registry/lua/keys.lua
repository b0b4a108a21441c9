-- The keys of every script, in the order of scripts.KEYS; docs/registry.md says what each holds.
local META, NAMES, INDEX, USES, OWNED, TERMS, DEADLINE, UNTIL =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local VALUES = {
  site = KEYS[9], service = KEYS[10], endpoint = KEYS[11], lease = KEYS[12], override = KEYS[13], token = KEYS[14],
  verdict = KEYS[15],
}
-- Each stream has a list of its entries' sizes beside it, so that it is bounded in octets, not only in entries.
local STREAMS = {
  events = {KEYS[16], KEYS[17]}, audit = {KEYS[18], KEYS[19]}, audit_leases = {KEYS[20], KEYS[21]},
  seen = {KEYS[25], KEYS[26]}, rtt_log = {KEYS[29], KEYS[30]},
}
local SERIALS, OBSERVERS, VOTES = KEYS[22], KEYS[23], KEYS[24]
local HELD, HOLDING = KEYS[27], KEYS[28]
local MEASURED = {state = KEYS[31], decided = KEYS[32], cells = KEYS[33]}
