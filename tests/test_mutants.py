"""Mistakes that the tests must notice: each is made in a copy of the sources, and a test there has to fail.

One line of the pure rooms is changed at a time, always in a way that still runs. `TESTS` are the files run for a room;
they must pass unchanged, or a mutant would be "noticed" by a test that fails anyway.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.node import ROOT

TESTS: Final = {
    "steer": ["tests/steer"],
    "image": ["tests/image", "tests/test_answer_services.py", "tests/test_answer_https.py"],
    "dns": ["tests/dns", "tests/test_answer.py"],
    "limits": ["tests/dns/test_guard.py", "tests/dns/test_cookies.py", "tests/dns/test_prefixes.py",
               "tests/test_answer_limits.py"],
    "answer": ["tests/test_answer.py", "tests/test_answer_names.py", "tests/test_answer_services.py",
               "tests/test_answer_https.py"],
    "compile": ["tests/compile", "tests/test_answer_services.py"],
    "judge": ["tests/control/test_builder.py", "tests/control/test_judge.py"],
    "velocity": ["tests/steer/test_limits.py"],
    "standing": ["tests/control/test_standing.py", "tests/control/test_weights.py",
                 "tests/control/test_resolve_health.py"],
    "spill": ["tests/steer/test_spill.py", "tests/steer/test_spread.py"],
    "spilled": ["tests/control/test_spill.py"],
    "outcome": ["tests/control/test_outcome.py"],
    "affinity": ["tests/atlas/test_affinity.py"],
    "infer": ["tests/rtt/test_infer.py", "tests/atlas/test_vectors.py"],
    "neighbours": ["tests/rtt/test_neighbours.py"],
    "laws": ["tests/machine/test_laws.py"],
    "ramps": ["tests/control/test_ramps.py"],
    "removed": ["tests/control/test_removed.py", "tests/control/test_views.py", "tests/control/test_local.py"],
}

MUTANTS: Final = [
    ("steer", "dnsd/steer/rank.py", "ms > best[tier] + rules.band_ms", "ms >= best[tier] + rules.band_ms"),
    ("steer", "dnsd/steer/rank.py", "best[tier] = min(ms,", "best[tier] = max(ms,"),
    ("steer", "dnsd/steer/rank.py", "score = proximity if beyond else", "score = proximity if False else"),
    ("steer", "dnsd/steer/rank.py", "candidate.tier + NEVER_FIRST", "candidate.tier"),
    ("steer", "dnsd/steer/rank.py", "bits[c.column] & fence]", "bits[c.column] | fence]"),
    ("steer", "dnsd/steer/draw.py", "<< 16) // weight, value", "<< 16) * weight, value"),
    ("steer", "dnsd/steer/draw.py", "+ window * 0xD1342543DE82EF95", "+ 0xD1342543DE82EF95"),
    ("steer", "dnsd/steer/scope.py", "key ^ (high + 1)", "key ^ high"),
    ("steer", "dnsd/steer/policy.py", "uses_client=True) if policy.fence", "uses_client=False) if policy.fence"),
    ("spill", "dnsd/steer/spill.py", "share = keep if site == native else take", "share = take"),
    ("spill", "dnsd/steer/spill.py", "accepted = here < share", "accepted = here <= share"),
    ("spill", "dnsd/steer/spill.py", "if site != native and take and", "if take and"),
    ("spill", "dnsd/steer/spill.py", "elif stand.tier != first.tier:", "elif False:"),
    ("spill", "dnsd/steer/spill.py", "        if native is None:\n", "        if native is None and stand.alive:\n"),
    ("spill", "dnsd/steer/spill.py", "price(value, take) < least)", "price(value, take) > least)"),
    ("spill", "dnsd/steer/spill.py", "* WHOLE >> 16", ">> 0"),
    ("spill", "dnsd/steer/spread.py", "if load + weight > limit:", "if load > 1.1 * limit:"),
    ("spill", "dnsd/steer/spread.py", "is not None and taken[n] > room}", "is not None and taken[n] > 2 * room}"),
    ("spill", "dnsd/steer/spread.py", "if not room.alive or room.capacity is None or", "if"),
    ("spill", "dnsd/steer/spread.py", "max(0.25, 0.98 * room / taken[number])", "1"),
    ("spill", "dnsd/steer/spread.py", "else max(high, total / bounded if bounded else high)", "else high"),
    ("spilled", "dnsd/control/spill.py", "block >> cut << cut", "block"),
    ("spilled", "dnsd/control/spill.py", "weight * unit, seed", "weight, seed"),
    ("spilled", "dnsd/control/spill.py", "capacity * able / weight", "capacity"),
    ("spilled", "dnsd/control/resolve.py", "young and not grave.revoked and", "young and"),
    ("spilled", "dnsd/control/resolve.py", "young and not grave.revoked", "not grave.revoked"),
    ("spilled", "dnsd/compile/service.py", "for e in ghosts)], key", "for e in ())], key"),
    ("spilled", "dnsd/image/record.py", "(ghosts and (c.ghost_aaaa", "(False and (c.ghost_aaaa"),
    ("steer", "dnsd/steer/health.py", "-streak < rules.fall", "-streak <= rules.fall"),
    ("steer", "dnsd/steer/health.py", "if streak < needed(cell, rules):", "if streak < rules.rise:"),
    ("steer", "dnsd/steer/health.py", "back_ms=now_ms)", "back_ms=0)"),
    ("steer", "dnsd/steer/health.py", "doubt=not ok and cell.state is not State.DOWN", "doubt=not ok"),
    ("steer", "dnsd/steer/health.py", "else rtt_ms > SLOW_MS", "else rtt_ms >= SLOW_MS"),
    ("steer", "dnsd/steer/health.py", "rtt_ms < QUICK_MS if slow", "rtt_ms <= QUICK_MS if slow"),
    ("steer", "dnsd/steer/health.py", "        return slow, 0\n", "        return slow, pace\n"),
    ("steer", "dnsd/steer/health.py", "SLOW_ROW: Final = 3", "SLOW_ROW: Final = 2"),
    ("steer", "dnsd/steer/breaker.py", "self.failed * 100 > percent", "self.failed * 100 >= percent"),
    ("steer", "dnsd/steer/breaker.py", "tallies) < LEAST or", "tallies) <= LEAST or"),
    ("steer", "dnsd/steer/breaker.py", "others) < OTHERS_LEAST or", "others) < 10**9 or"),
    ("steer", "dnsd/steer/breaker.py", "max(first, now - WINDOW_S), now - known)", "max(first, now - WINDOW_S), now)"),
    ("steer", "dnsd/steer/breaker.py", "breaker.since_ms // SECOND + 1, now_ms", "0, now_ms"),
    ("steer", "dnsd/steer/breaker.py", "and largest.all > rest.all", "and False"),
    ("steer", "dnsd/steer/breaker.py", "breaker.trips + 1, 0", "1, 0"),
    ("steer", "dnsd/steer/breaker.py", "if not known and not _over", "if False and not _over"),
    ("steer", "dnsd/steer/rule.py", "< bound.for_ms:", "<= bound.for_ms:"),
    ("steer", "dnsd/steer/rule.py", "return value > bound.above", "return value >= bound.above"),
    ("steer", "dnsd/steer/rule.py", "if now_ms - last_ms <= gap_ms else 0", "if True else 0"),
    ("steer", "dnsd/steer/rule.py", "if breach and now_ms - frozen_ms < FROZEN_MS:", "if False:"),
    ("steer", "dnsd/steer/rule.py", "now_ms - series.first_ms < LEARNS_MS", "False"),
    ("velocity", "dnsd/steer/limits.py", "* 100 >= total * PANIC_PERCENT", "* 100 > total * PANIC_PERCENT"),
    ("velocity", "dnsd/steer/limits.py", "healthy.get(tier, 0) * 100 >=", "sum(healthy.values()) * 100 >="),
    ("velocity", "dnsd/steer/limits.py", "self.now_ms - at_ms < WINDOW_MS", "self.now_ms - at_ms < 0"),
    ("velocity", "dnsd/steer/limits.py", "self.now_ms - at_ms < WINDOW_MS", "self.now_ms - at_ms <= WINDOW_MS"),
    ("velocity", "dnsd/steer/limits.py", "for one in before.past if one.id in self.weights}", "for one in ()}"),
    ("velocity", "dnsd/steer/limits.py", "in self.weights} | self.was", "in self.weights}"),
    ("velocity", "dnsd/steer/limits.py", "for id_ in self.past.keys() - self.paid:", "for id_ in ():"),
    ("velocity", "dnsd/steer/limits.py", "if subject.id in self.past or subject.id in self.paid:", "if False:"),
    ("velocity", "dnsd/steer/limits.py", "if any(subject.down for subject in held) or", "if"),
    ("velocity", "dnsd/steer/limits.py", "or (within and len(self.since) > 1 and self.taken > self.most)", "or False"),
    ("velocity", "dnsd/steer/limits.py", "(free or not within or", "(True or"),
    ("velocity", "dnsd/steer/limits.py", "not within or not self._recent(at_ms) or", "not within or"),
    ("velocity", "dnsd/steer/limits.py", "self.was.get(s.id, out.get(s.id))", "self.was.get(s.id)"),
    ("velocity", "dnsd/steer/limits.py", "        taking.charge(one.id, weights[one.id], one.at_ms)", "        pass"),
    ("velocity", "dnsd/steer/limits.py", "if s.down and s.id not in first.held}", "if s.down}"),
    ("velocity", "dnsd/steer/limits.py", "since.get(s.id, now_ms)", "now_ms"),
    ("standing", "dnsd/control/standing.py", "{one.id: one.at_ms for one in before.slow.removed})", "{})"),
    ("standing", "dnsd/control/standing.py", "{one.id: one.at_ms for one in before.down.removed}", "{}"),
    ("standing", "dnsd/control/standing.py", "slow or before.slow.removed or before.slow.past", "slow"),
    ("standing", "dnsd/control/standing.py", "(settled or not unknown) if fallback else spare", "fallback or spare"),
    ("standing", "dnsd/control/standing.py", "Kept(limits.gone(subjects, before.down, now_ms))", "Kept()"),
    ("standing", "dnsd/control/standing.py", "first.room_ms, second.room_ms", "first.room_ms"),
    ("standing", "dnsd/control/standing.py", "c.forced or c.id in first.held)", "c.forced)"),
    ("standing", "dnsd/control/resolve.py", "health.at_ms or now_ms", "now_ms"),
    ("standing", "dnsd/control/resolve.py", "before.get(key | PAST, ())", "()"),
    ("standing", "dnsd/control/weights.py", "WHOLE - max(shares) if shares", "WHOLE - min(shares) if shares"),
    ("standing", "dnsd/control/weights.py", "min(_ratios(", "max(_ratios("),
    ("standing", "dnsd/control/weights.py", "/ ((WHOLE - share) * others)", "/ (WHOLE * others)"),
    ("standing", "dnsd/control/weights.py", "if part.tier > tier and part.sound]", "if part.tier > tier]"),
    ("standing", "dnsd/control/weights.py", "able = [part for part in parts if part.weight]", "able = parts"),
    ("standing", "dnsd/control/weights.py", "min(parts) * scale >= ENOUGH", "scale > 0"),
    ("standing", "dnsd/control/weights.py", "return min(wanted, MOST / max(", "return max(wanted, MOST / max("),
    ("velocity", "dnsd/steer/limits.py", "if len(failed) == len(groups):", "if not failed:"),
    ("velocity", "dnsd/steer/limits.py", "max(max(sites.values(), default=0),", "max(0,"),
    ("velocity", "dnsd/steer/limits.py", "self.was = {one.id: min(one.at_ms, now_ms)", "self.was = {one.id: one.at_ms"),
    ("velocity", "dnsd/steer/limits.py", "if not (s.down or s.forced)]", "if not s.down]"),
    ("steer", "dnsd/steer/health.py", "doubt=False, proven=True)", "doubt=False)"),
    ("steer", "dnsd/steer/quorum.py", "up * WHOLE < min_up", "up * WHOLE <= min_up"),
    ("steer", "dnsd/steer/quorum.py", "down >= min(agree, known)", "down >= 1"),
    ("steer", "dnsd/steer/quorum.py", "for vote in counted], len(present)", "for vote in counted], len(counted)"),
    ("steer", "dnsd/steer/quorum.py", "for sight in failing}) >= BLIND_SITES", "for sight in were_up}) >= BLIND_SITES"),
    ("image", "dnsd/image/table.py", "(below if below < above else above)", "(above if below < above else below)"),
    ("image", "dnsd/image/table.py", "return row, before + scope", "return row, scope"),
    ("image", "dnsd/image/table.py", "(~address & 0xFFFFFFFF) >> 8", "(address & 0xFFFFFFFF) >> 8"),
    ("image", "dnsd/image/record.py", "if level <= reach:", "if level < reach:"),
    ("image", "dnsd/image/record.py", "0 if self.split4 else now // self.ttl", "now // self.ttl"),
    ("image", "dnsd/image/reading.py", "!= header[\"crc\"]", "== header[\"nothing\"]"),
    ("dns", "dnsd/dns/wire.py", "if source < known and address &", "if source < known and not address &"),
    ("dns", "dnsd/dns/wire.py", "if packet[at + 4] or length != 4", "if length != 4"),
    ("dns", "dnsd/dns/wire.py", "if ecs is not None:\n                raise", "if ecs is None:\n                raise"),
    ("dns", "dnsd/dns/wire.py", "packet[12:267]", "packet[12:268]"),
    ("limits", "dnsd/dns/guard.py", "if ahead > most:", "if ahead >= most:"),
    ("limits", "dnsd/dns/guard.py", "if ahead > AHEAD:\n", "if ahead < 0:\n"),
    ("limits", "dnsd/dns/guard.py", "128 * _SECOND", "61 * _SECOND"),
    ("limits", "dnsd/dns/guard.py", "empty_at - now & TIME\n        if", "max(0, empty_at - now)\n        if"),
    ("limits", "dnsd/dns/guard.py", "tag | now + ahead & TIME", "tag | now + ahead & TIME >> 1"),
    ("limits", "dnsd/dns/guard.py", "-(-_SECOND // rate)", "_SECOND // rate + 2"),
    ("limits", "dnsd/dns/guard.py", "zone << 4 | kind", "zone | kind"),
    ("limits", "dnsd/dns/guard.py", ">> 8 | 1 << 56", ">> 8"),
    ("limits", "dnsd/dns/guard.py", "(\">Q8x\")", "(\">8xQ\")"),
    ("limits", "dnsd/dns/guard.py", "kind += RAISED", "kind += 0"),
    ("limits", "dnsd/dns/guard.py", "longest4 > 24", "longest4 > 25"),
    ("limits", "dnsd/dns/guard.py", "longest6 > 56", "longest6 > 57"),
    ("limits", "dnsd/dns/guard.py", "if empty_at <= TIME:\n", "if empty_at <= 0:\n"),
    ("limits", "dnsd/dns/guard.py", "(ahead <= ahead_beside <= AHEAD)", "(ahead >= ahead_beside)"),
    ("limits", "dnsd/dns/guard.py", "hash((self._key, prefix", "hash((str(self._key), prefix"),
    ("limits", "dnsd/dns/guard.py", "hash((self._key, prefix", "hash((7, prefix"),
    ("limits", "dnsd/dns/cookies.py", "cookie[:16] + client, cookie[16:]", "cookie[:16], cookie[16:]"),
    ("limits", "dnsd/dns/cookies.py", "cookie[8] != 1", "cookie[8] == 0"),
    ("limits", "dnsd/dns/cookies.py", "OLDEST: Final = 3600", "OLDEST: Final = 3601"),
    ("limits", "dnsd/dns/cookies.py", "YOUNGEST: Final = -300", "YOUNGEST: Final = -301"),
    ("limits", "dnsd/dns/cookies.py", "_age(cookie, now) <= RENEWED", "_age(cookie, now) < RENEWED"),
    ("limits", "dnsd/dns/cookies.py", "maker is self._active and", "maker is not None and"),
    ("limits", "dnsd/dns/cookies.py", "cookie[8:12] == _HEAD and", "True and"),
    ("limits", "dnsd/dns/cookies.py", "age - (1 << 32) if age >> 31", "age - (1 << 32) if age < 0"),
    ("limits", "dnsd/dns/prefixes.py", "address >> shift in", "address in"),
    ("limits", "dnsd/answer.py", "if guard is not None and not ctx.tcp and", "if guard is not None and"),
    ("limits", "dnsd/answer.py", "if valid:\n            ctx.count", "if not valid:\n            ctx.count"),
    ("limits", "dnsd/answer.py", "_SLIPPED: Final = wire.heads(aa=False, tc=True)", "_SLIPPED: Final = wire.heads()"),
    ("answer", "dnsd/choose.py", "if ecs is None or not ecs[2]:\n        row", "if ecs is None:\n        row"),
    ("answer", "dnsd/choose.py", "max(scope, length) if from_ecs", "min(scope, length) if from_ecs"),
    ("answer", "dnsd/choose.py", "if slot != metrics.LADDER_EMPTY:", "if True:"),
    ("answer", "dnsd/choose.py", "max(a[2], aaaa[2])", "min(a[2], aaaa[2])"),
    ("answer", "dnsd/choose.py", "(image, plan, 1, client, ecs", "(image, plan, 1, client, None"),
    ("answer", "dnsd/choose.py", "told = dict.fromkeys(", "told = list("),
    ("image", "dnsd/image/record.py", "self.https_rest, b\"\\0\\6\"", "b\"\", b\"\\0\\6\""),
    ("image", "dnsd/compile/service.py", "in sorted(values)", "in values"),
    ("answer", "dnsd/chase.py", "types.NXDOMAIN)\n", "types.NOERROR)\n"),
    ("answer", "dnsd/chase.py", "(node.cut is not node or key != KEY_DS)", "(node.cut is not node)"),
    ("answer", "dnsd/answer.py", "packet[2] & 0xF8", "packet[2] & 0x78"),
    ("compile", "dnsd/compile/service.py", "sites == 1 and not policy.fence", "sites == 1"),
    ("compile", "dnsd/compile/service.py", "service.last_good_a if a is", "service.fallback_a if a is"),
    ("compile", "dnsd/compile/image.py", "min(soa.ttl, minimum)", "soa.ttl"),
    ("compile", "dnsd/compile/zones.py", ".cut or (name if types.NS", ".cut and (name if types.NS"),
    ("judge", "dnsd/control/builder.py", "state = State(was.base)", "state = State.UNKNOWN"),
    ("judge", "dnsd/control/builder.py", "now_ms if was.base == State.DOWN and", "now_ms if"),
    ("judge", "dnsd/control/builder.py", "        self.own.renew(name)", "        pass"),
    ("judge", "dnsd/control/judge.py", "name in self._since or not self._stands", "True"),
    ("judge", "dnsd/control/judge.py", "self._is_together() and not self._waits()", "self._is_together()"),
    ("judge", "dnsd/control/judge.py", "or now - self._met_s > REJOINS_S", ""),
    ("outcome", "dnsd/control/outcome.py", "if source not in self.alive)", "if source in self.alive)"),
    ("outcome", "dnsd/control/outcome.py", "| {FALLBACK, NOBODY}", "| frozenset()"),
    ("outcome", "dnsd/control/outcome.py", "if share > after.get(site, 0.0)}", "if share >= after.get(site, 0.0)}"),
    ("outcome", "dnsd/control/outcome.py", "loss * gain / total", "loss * gain"),
    ("outcome", "dnsd/control/outcome.py", "weight * asked.after.ms[target]", "weight * asked.after.ms[source]"),
    ("outcome", "dnsd/control/outcome.py", "< step * weight *", "< 0 * step * weight *"),
    ("outcome", "dnsd/control/outcome.py", 'found["used_after"] > 1', 'found["used_after"] > 2'),
    ("infer", "dnsd/rtt/infer.py", "if not steps or inferred_ms >= by_distance:", "if False:"),
    ("infer", "dnsd/rtt/infer.py", "if name not in WIDE:", "if True:"),
    ("infer", "dnsd/rtt/infer.py", "- field.leverage[mine] * apart", "- 0 * apart"),
    ("infer", "dnsd/rtt/infer.py", "if len(some) > ASKED_MOST:", "if False:"),
    ("infer", "dnsd/rtt/infer.py", "mutual = np.clip(np.log(between", "mutual = 0 * np.clip(np.log(between"),
    ("infer", "dnsd/rtt/infer.py", "if ask.blocks < BLOCKS_LEAST:", "if False:"),
    ("infer", "dnsd/rtt/infer_field.py", "residual[station, j[mine]] - off", "residual[station, j[mine]]"),
    ("infer", "dnsd/rtt/infer_rungs.py", "found.cells[group] - mine,", "found.cells[group],"),
    ("neighbours", "dnsd/rtt/neighbours.py", "beyond = said - np.median(said, axis=0)", "beyond = said"),
    ("neighbours", "dnsd/rtt/neighbours.py", "[0, 1] > AGREE:", "[0, 1] > -2:"),
    ("infer", "dnsd/atlas/vectors.py", "np.maximum(inferred.least_ms[place[whole.origin]], LEAST_MS)", "LEAST_MS"),
    ("infer", "dnsd/atlas/vectors.py", "& ~_carrying(table.blocks)", ""),
    ("infer", "dnsd/atlas/vectors.py", "end[end < last] + np.uint64(1), first", "end[end < last], first"),
    ("infer", "dnsd/atlas/vectors.py", "seen.ms[here], seen.error[here], MEASURED", "ms[mine:][here], 1.0, MEASURED"),
    ("affinity", "dnsd/atlas/affinity.py", "(extra - best > BAND_MS)", "(extra - best >= 0)"),
    ("affinity", "dnsd/atlas/affinity.py", "np.where(measured, extra, np.inf).min", "np.where(measured, extra, 0).min"),
    ("affinity", "dnsd/atlas/affinity.py", "np.maximum(nearest - BAND_MS, 0.0)", "nearest - BAND_MS"),
    ("affinity", "dnsd/atlas/affinity.py", "where(mine, extra - nearer,", "where(mine, np.minimum(extra, BAND_MS),"),
    ("affinity", "dnsd/atlas/affinity.py", "home & ~(measured &", "home & (measured &"),
    ("affinity", "dnsd/atlas/affinity.py", "vectors + which.reshape(-1)", "which.reshape(-1)"),
    ("laws", "dnsd/control/resolve.py", "if kept is None or not kept.left_ms or", "if True or"),
    ("laws", "dnsd/control/resolve.py", "left_ms = before.left_ms or now_ms", "left_ms = 1"),
    ("laws", "dnsd/control/resolve.py", "grave.revoked if grave is not None else", "True if grave is not None else"),
    ("laws", "dnsd/control/views.py", "self._remember(name, now.memory)", "pass"),
    ("laws", "dnsd/control/views.py", "int(left_ms) or seen_ms", "int(left_ms) or 1"),
    ("laws", "dnsd/control/live.py", "            self.stamp = self.image.stamp", "            pass"),
    ("laws", "dnsd/control/live.py", "self.stamp.node_seq + 1)", "self.stamp.node_seq)"),
    ("laws", "dnsd/control/live.py", "return Stamp(self.stamp.epoch, version,", "return Stamp(self.stamp.epoch, 0,"),
    ("laws", "dnsd/registry/lua/renew.lua", "clock + tonumber(ttl) * 1000", "clock + tonumber(ttl) * 100"),
    ("laws", "dnsd/registry/lua/renew.lua", "if held == fence then", "if held ~= fence then"),
    ("laws", "dnsd/registry/leases.py", "[renewal.id, str(renewal.fence)", "[renewal.id, str(renewal.fence + 1)"),
    ("laws", "dnsd/control/builder.py", "else self.arrivals.ahead_ms(before)", "else 0"),
    ("laws", "dnsd/control/removed.py", "moved(kept, self._steady.jumped_ms())", "kept"),
    ("removed", "dnsd/control/removed.py", "if id_ in known else was.get(id_, now_ms))", "+ 0 * now_ms)"),
    ("removed", "dnsd/control/removed.py", "was.get(id_, now_ms))", "now_ms)"),
    ("removed", "dnsd/control/removed.py", "if id_ not in there and now_ms - at_ms < WINDOW_MS)", "if False)"),
    ("removed", "dnsd/control/removed.py", "            if one == verdict:", "            if False:"),
    ("removed", "dnsd/control/removed.py", "self._steady.met(at_ms)", "0"),
    ("removed", "dnsd/control/views.py", "self._asof_ms = min(first, now_ms), max(last, now_ms)", "pass"),
    ("removed", "dnsd/control/local.py", "self._ends_s[override.key] - self.clock.monotonic())", "float('inf'))"),
    ("ramps", "dnsd/control/builder.py", "health.later(judged.back_ms, ahead_ms)", "judged.back_ms"),
    ("ramps", "dnsd/control/reports.py", "breakers.moved(one.breaker, by_ms)", "one.breaker"),
    ("laws", "dnsd/control/votes.py", "and not self._marks.get(node, UNMARKED)[1]", "and True"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources to be changed, the tests as they are."""
    root = tmp_path_factory.mktemp("mutants")
    shutil.copytree(ROOT / "dnsd", root / "dnsd", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "data", "pyproject.toml"):
        (root / name).symlink_to(ROOT / name)
    return root


_NURSERY: Final = """
import importlib, json, os, sys
import pytest
for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.dup2(os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        code = pytest.main(json.loads(line))
        sys.stdout.flush()
        os._exit(int(code))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs pytest again and again, each time in a child that finds the libraries, but nothing of ours, imported already."""

_LIBRARIES: Final = (
    "aiohttp", "dns.message", "dns.query", "dns.zone", "numpy", "pydantic", "redis.asyncio", "siphash24")


@pytest.fixture(scope="module")
def nursery(copy: Path) -> Iterator[subprocess.Popen[str]]:
    """One for the copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    with subprocess.Popen(
            [sys.executable, "-B", "-c", _NURSERY, *_LIBRARIES], cwd=copy, env=environment | {"PYTHONPATH": str(copy)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def noticed(nursery: subprocess.Popen[str], root: Path, room: str, file: str = "") -> bool:
    """Whether a test of the room fails on the copy; an error in running them at all is no answer. The tests of the file
    that was changed come first, alone, and what they find is not made smaller: that would take longer than finding it.
    """
    first = [path for folder in TESTS[room] if (ROOT / (path := f"{folder}/test_{Path(file).stem}.py")).exists()]
    profile = "once" if file else "few"
    return any(_fails(nursery, root, tests, profile) for tests in (first, TESTS[room]) if tests)


def _fails(nursery: subprocess.Popen[str], root: Path, tests: list[str], profile: str) -> bool:
    assert nursery.stdin
    assert nursery.stdout
    arguments = ["-q", "-x", "-p", "no:cacheprovider", f"--hypothesis-profile={profile}", *tests]
    print(json.dumps(arguments), file=nursery.stdin, flush=True)
    code = int(nursery.stdout.readline())
    assert code in (0, 1), (root / "output").read_text(encoding="utf-8")
    return code == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("room", TESTS)
def test_the_unchanged_copy_passes(nursery: subprocess.Popen[str], copy: Path, room: str) -> None:
    assert not noticed(nursery, copy, room), (copy / "output").read_text(encoding="utf-8")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("room", "file", "right", "wrong"), MUTANTS, ids=[f"{m[1][5:-3]}-{i}" for i, m in enumerate(MUTANTS)])
def test_a_mistake_is_noticed(
    nursery: subprocess.Popen[str], copy: Path, room: str, file: str, right: str, wrong: str,
) -> None:
    source = copy / file
    text = source.read_text(encoding="utf-8")
    assert right in text, f"{file} no longer has the line this mistake is made in"
    source.write_text(text.replace(right, wrong, 1), encoding="utf-8")
    try:
        assert noticed(nursery, copy, room, file)
    finally:
        source.write_text(text, encoding="utf-8")
