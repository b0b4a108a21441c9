-- The keys of every script, in the order of scripts.KEYS; docs/registry.md says what each holds.
local META, NAMES, INDEX, USES, OWNED, TERMS, DEADLINE, UNTIL =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local VALUES = {
  site = KEYS[9], service = KEYS[10], endpoint = KEYS[11], lease = KEYS[12], override = KEYS[13], token = KEYS[14],
}
-- Each stream has a list of its entries' sizes beside it, so that it is bounded in octets, not only in entries.
local STREAMS = {
  events = {KEYS[15], KEYS[16]}, audit = {KEYS[17], KEYS[18]}, audit_leases = {KEYS[19], KEYS[20]},
}
local SERIALS = KEYS[21]
