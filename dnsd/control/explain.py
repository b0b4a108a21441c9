"""Why a client gets the answer it gets: the same question through the same door, and everything that decided it.

Lives here: the explanation as one JSON object. Does not live here: deciding (`answer`, `choose`, `steer.rank` are asked
again, not imitated), how it is shown (`cli.explain`).

    rcode addresses ttl scope answer   what the query got, taken from the reply's octets
    decided_by origin map row          who was judged, what the data say of it, how far each site is
    service policy                     what was declared, and the rung of the never-empty ladder
    candidates                         everybody who could be answered, in order, with each part of the place
    removed                            everybody who could not, and why
"""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from dnsd.choose import standpoint
from dnsd.control import reply, way, zonefile
from dnsd.control.maps import Maps
from dnsd.control.publish import Publisher
from dnsd.control.reckon import Place, Shelf
from dnsd.control.resolve import Resolved
from dnsd.control.selfcheck import Asker
from dnsd.control.views import Views
from dnsd.dns import names, types, wire
from dnsd.image import layout
from dnsd.image.reading import KEY_CNAME, KEY_HTTPS, Entry, Image, Node
from dnsd.image.record import Plan
from dnsd.model import Fence, Ladder, Match
from dnsd.steer import draw, rank
from dnsd.steer.row import ROW_UNKNOWN

ALIASES: Final = 9
COST_UNIT: Final = 1 << 48
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Question(NamedTuple):
    """What is asked, checked: wire name, type, resolver's address, client subnet."""

    name: bytes
    type: int
    client: IPAddress
    subnet: reply.IPNetwork | None


class Explainer:
    """Answers `explain` from the image that workers have."""

    def __init__(self, views: Views, publisher: Publisher, maps: Maps) -> None:
        self.views, self.publisher, self.maps = views, publisher, maps
        self.shelf = Shelf(maps.dir)
        self._asker = Asker(publisher.node)

    async def told(self, name: str, type_: str, client: str | None, subnet: str | None) -> dict[str, Any]:
        """As `explain`, with the map's estimates, also where reading them takes a while."""
        told = self.explain(name, type_, client, subnet)
        file = told["map"]["file"] if "map" in told else None
        if file is None or not self.shelf.lacks(file):
            return told
        await asyncio.to_thread(self.shelf.read, file)
        return self.explain(name, type_, client, subnet)

    def explain(self, name: str, type_: str, client: str | None, subnet: str | None) -> dict[str, Any]:
        """The whole explanation; ValueError says what is wrong with the question."""
        question = parse(name, type_, client, subnet)
        image = self.publisher.live.image
        if image is None:
            raise ValueError("no image is served yet")
        now = self.publisher.clock.unix_ms() // 1000
        packed = question.client.packed
        answer = self._asker.ask(image, reply.query(question.name, question.type, question.subnet), now, packed)
        told: dict[str, Any] = {
            "name": names.to_text(question.name), "type": types.type_text(question.type),
            "client": str(question.client),
            "subnet": str(question.subnet) if question.subnet is not None else None, **_outcome(answer),
            "node": self.publisher.node, "image": image.stamp._asdict(),
        }
        node = _service_node(image, question.name)
        if node is None or not _chosen(node, question.type):
            told["why"] = {"choice": _static_reason(image, question, answer)}
            return told
        return told | self._service(image, node, question, answer, now)

    def _service(
        self, image: Image, node: Node, question: Question, answer: reply.Reply, now: int,
    ) -> dict[str, Any]:
        """The service's part: who was judged, candidates, the removed, and sentences."""
        plan = image.plan(node.record)
        v6 = _family(plan, question.type)
        row, scope, block, from_ecs = standpoint(image, plan, question.client.packed, _ecs(question.subnet))
        table = image.maps.get(plan.map_id) if plan.uses_client else None
        judged = way.answerable(plan, v6, plan.judge(v6, row, table))
        sites = self._sites(plan)
        who = question.subnet.network_address if from_ecs and question.subnet is not None else question.client
        levels, bits, level_ms = table.row(row) if table is not None else ((), (), ())
        rung = Ladder(plan.ladder_aaaa if v6 else plan.ladder_a)
        name = names.to_text(node.name).removesuffix(".")
        resolved = self.views.resolved.get(name)
        ids = self._ids(node, plan)
        trips, number = self._trips(image.map_refs.get(plan.map_id), sites, who)
        candidates = _candidates(plan, judged, ids, v6, plan.seed(block, now)) if rung is Ladder.LIVE else []
        given = set(_addresses(answer))
        notes = {} if resolved is None else {m.endpoint.id: m.reason for m in resolved.members}
        for candidate in candidates:
            candidate["why"] = notes.get(candidate["endpoint"], "")
            candidate["answered"] = ipaddress.ip_address(candidate["address"]).packed in given
            candidate |= trips.get(candidate["site"], {})
        sentences = _Reasons(question, plan, row, scope, rung, from_ecs, v6)
        return way.told(plan, v6, (row, table), plan.seed(block, now), ids, {
            "service": name,
            "decided_by": "subnet" if from_ecs else "resolver" if plan.uses_client else "nothing of the client",
            "origin": self._origin(who),
            "map": {
                "id": plan.map_id, "file": image.map_refs.get(plan.map_id), "sites": sites, "row": row,
                "atlas": f"{table.atlas:016x}" if table is not None else None, "table": number},
            "row": [
                {"site": sites[column] if column < len(sites) else f"column {column}", "ms": level_ms[level],
                 "level": level, "match": _matches(bits[column]),
                 **(trips.get(sites[column], {}) if column < len(sites) else {})}
                for column, level in enumerate(levels)],
            "policy": self._policy(node),
            "rung": rung.name.lower(),
            "panic": bool(plan.flags & layout.R_PANIC),
            "forced": _forced(resolved),
            "candidates": candidates,
            "removed": _removed(resolved, judged, ids, v6) + self._ended(name),
            "why": sentences.all(candidates, self.publisher.live.refused.get(node.name, "")),
        })

    # --- parts ---

    def _sites(self, plan: Plan) -> list[str]:
        view = self.publisher.maps.get(plan.map_id)
        return list(view.sites) if view is not None else []

    def _ids(self, node: Node, plan: Plan) -> list[tuple[str, str]]:
        """Id and site of each of the record's endpoints; their keys where only a former process's image is there."""
        view = self.publisher.live.published.get(node.name)
        both = [*((e, False) for e in view.live), *((e, True) for e in view.ghosts)] if view is not None else []
        if len(both) != len(plan.candidates):
            return [(f"{candidate.key:016x}", "?") for candidate in plan.candidates]
        return [(e.id, e.site) for e, _ in sorted(both, key=lambda one: (one[0].id, one[1]))]

    def _origin(self, who: IPAddress) -> dict[str, Any] | None:
        if self.maps.atlas is None:
            return None
        return {"address": str(who), **asdict(self.maps.atlas.origin(who))}

    def _trips(self, file: str | None, sites: list[str], who: IPAddress) -> tuple[dict[str, Any], int | None]:
        """Milliseconds to each site and how they are known, and the number of the measured table they are from."""
        if self.maps.atlas is None or file is None:
            return {}, None
        known = [self.views.fleet.sites[site] for site in sites if site in self.views.fleet.sites]
        places = [Place(site.id, site.latitude, site.longitude) for site in known]
        found, number = self.shelf.reckon(file, self.maps.atlas, who, places, self.publisher.clock.unix_ms())
        return {site: one.told() for site, one in found.items()}, number

    def _policy(self, node: Node) -> dict[str, Any] | None:
        view = self.publisher.live.published.get(node.name)
        if view is None:
            return None
        return {**asdict(view.policy), "fence": view.policy.fence.name.lower(), "ttl": view.ttl}

    def _ended(self, name: str) -> list[dict[str, Any]]:
        """Endpoints that are gone, as long as they are remembered."""
        return [{
            "endpoint": ended.endpoint.id, "site": ended.endpoint.site,
            "why": ("deleted" if ended.revoked else "its lease ended") + f" at {_time(ended.at_ms)}",
        } for ended in self.views.fleet.ended.get(name, {}).values()]


def parse(name: str, type_: str, client: str | None, subnet: str | None) -> Question:
    """The question from texts; ValueError names what is wrong."""
    asked = ipaddress.ip_address(client or "127.0.0.1")
    inside = getattr(asked, "ipv4_mapped", None)
    return Question(
        names.to_wire(name), types.type_number(type_), inside or asked,
        ipaddress.ip_network(subnet, strict=False) if subnet else None)


def _outcome(answer: reply.Reply) -> dict[str, Any]:
    """What the reply's octets say."""
    return {
        "rcode": reply.RCODES.get(answer.rcode, str(answer.rcode)),
        "addresses": [str(ipaddress.ip_address(packed)) for packed in _addresses(answer)],
        "ttl": min((rr.ttl for rr in answer.answer), default=None),
        "scope": answer.scope,
        "answer": [_line(rr) for rr in answer.answer],
        "authority": [_line(rr) for rr in answer.authority],
        "errors": [f"{code}: {text}" for code, text in answer.errors],
    }


def _addresses(answer: reply.Reply) -> list[bytes]:
    """The addresses told, the hints of an HTTPS record among them."""
    found = []
    for rr in answer.answer:
        if rr.type in (types.A, types.AAAA):
            found.append(rr.rdata)
        elif rr.type == types.HTTPS:
            found += reply.hints(rr.rdata)
    return found


def _line(rr: reply.RR) -> str:
    text = zonefile.rdata_text(rr.type, rr.rdata)
    return f"{names.to_text(rr.owner)} {rr.ttl} {types.type_text(rr.type)} {text}"


def _service_node(image: Image, name: bytes) -> Node | None:
    """The service's node that a name comes to, directly, by a wildcard or through aliases."""
    for _ in range(ALIASES):
        node = image.get(name)
        above = name
        while node is None and above != b"\0":
            above = above[1 + above[0] :]
            encloser = image.get(above)
            if encloser is not None:
                node = encloser.wildcard
                break
        if node is None or node.cut is not None:
            return None
        if node.record != layout.NONE:
            return node
        alias = node.answers.get(KEY_CNAME)
        if not isinstance(alias, Entry):
            return None
        name = alias.data[12:].lower()
    return None


def _chosen(node: Node, type_: int) -> bool:
    """Whether a type is the service's to choose: A and AAAA always are, even if there is none."""
    return type_ in (types.A, types.AAAA) or (
        type_ == types.HTTPS and isinstance(node.answers.get(KEY_HTTPS), int))


def _family(plan: Plan, type_: int) -> bool:
    """Whether IPv6 is explained: of HTTPS, which hints at both, the family on the better rung, IPv4 of equals."""
    if type_ != types.HTTPS:
        return type_ == types.AAAA
    owned = (
        (plan.ladder_a if plan.flags & layout.R_OWNS_A else Ladder.EMPTY, False),
        (plan.ladder_aaaa if plan.flags & layout.R_OWNS_AAAA else Ladder.EMPTY, True))
    return min(owned)[1]


def _ecs(subnet: reply.IPNetwork | None) -> wire.Ecs | None:
    """The client subnet as the parser gives it to `choose`."""
    if subnet is None:
        return None
    key = int(subnet.network_address)
    return (True, key, subnet.prefixlen, 0, 0) if subnet.version == 6 else (False, key >> 8, subnet.prefixlen, 0, 0)


def _candidates(
    plan: Plan, judged: list[rank.Judged], ids: list[tuple[str, str]], v6: bool, seed: int,
) -> list[dict[str, Any]]:
    """The judged in the order of answering, with each part of their place."""
    found = []
    by_number = {one.number: one for one in judged}
    for place, group in enumerate(rank.groups(judged), 1):
        for number in draw.order(seed, group, plan.keys, plan.weights):
            one, candidate = by_number[number], plan.candidates[number]
            address = candidate.aaaa if v6 else candidate.a
            price, _ = draw.cost(seed, candidate.key, candidate.weight)
            found.append({
                "endpoint": ids[number][0], "site": ids[number][1],
                "address": str(ipaddress.ip_address(address or b"")), "answered": False,
                "tier": candidate.tier, "weight": candidate.weight, "ms": one.ms, "level": one.level,
                "match": _matches(one.bits), "in_band": not one.beyond, "proximity": one.proximity,
                "match_points": one.match, "standing": one.standing, "score": one.score, "group": place,
                "cost": price / COST_UNIT,
            })
    return found


def _forced(resolved: Resolved | None) -> list[str]:
    """What is forced on endpoints of the service, each override once."""
    overrides = [member.forced for member in (resolved.members if resolved is not None else ())]
    return list(dict.fromkeys(f"{o.target} {o.name} {o.state}: {o.reason}" for o in overrides if o is not None))


def _removed(
    resolved: Resolved | None, judged: list[rank.Judged], ids: list[tuple[str, str]], v6: bool,
) -> list[dict[str, Any]]:
    """Endpoints of the service that are no candidates, and why."""
    inside = {ids[one.number][0] for one in judged}
    found = []
    for member in resolved.members if resolved is not None else ():
        endpoint = member.endpoint
        if endpoint.id in inside:
            continue
        if (endpoint.aaaa if v6 else endpoint.a) is None:
            why = f"has no {'IPv6' if v6 else 'IPv4'} address"
        elif not (member.aaaa if v6 else member.a):
            why = member.reason
        else:
            why = "outside the client's fence" if judged else "not published yet, or fenced out"
        found.append({"endpoint": endpoint.id, "site": endpoint.site, "why": why})
    return found


class _Reasons(NamedTuple):
    """What was decided by what, as sentences."""

    question: Question
    plan: Plan
    row: int
    scope: int
    rung: Ladder
    from_ecs: bool
    v6: bool

    def all(self, candidates: list[dict[str, Any]], refused: str) -> dict[str, str]:
        """A sentence for each thing that was decided."""
        found = {
            "client": self._row(), "choice": self._choice(candidates), "fence": self._fence(candidates),
            "scope": self._scope(), "ttl": self._ttl(), "hints": self._hints(),
            "refused": f"a newer record failed the self-check: {refused}" if refused else ""}
        return {what: sentence for what, sentence in found.items() if sentence}

    def _row(self) -> str:
        if not self.plan.uses_client:
            return "the policy does not look at the client, or all endpoints are at one site"
        if self.row == ROW_UNKNOWN:
            return "nothing is known of the client, so no site is nearer than another"
        return f"the client has row {self.row} of map {self.plan.map_id}"

    def _choice(self, candidates: list[dict[str, Any]]) -> str:
        if self.rung is Ladder.EMPTY:
            return "the service has no address of this type to give: no endpoint, no fallback, no last good answer"
        if self.rung is not Ladder.LIVE:
            return f"no endpoint can be answered, so the {self.rung.name.lower().replace('_', ' ')} addresses are"
        answered = [c for c in candidates if c["answered"]]
        if not answered:
            return "the policy gives the fallback to such a client"
        best = answered[0]
        equals = sum(1 for c in candidates if c["group"] == best["group"])
        by = f"drawn among {equals} equals by cost" if equals > len(answered) else "first by tier, band and score"
        who = f"{best['endpoint']} at {best['site']}"
        return f"{who} is {best['ms']} ms over the best site, score {best['score']}; {by}"

    def _fence(self, candidates: list[dict[str, Any]]) -> str:
        fence = Fence(self.plan.rules.fence).name.lower()
        if fence == "none" or not candidates or any(fence in c["match"] for c in candidates):
            return ""
        return f"no endpoint is in the client's {fence} and no fallback is declared, so the fence is passed over"

    def _scope(self) -> str:
        if self.question.subnet is None:
            return ""
        if not self.from_ecs:
            return "0: the subnet has length 0, so the resolver's address decided"
        if self.rung is not Ladder.LIVE:
            return "0: the client does not matter on this rung"
        split = self.plan.split6 if self.question.subnet.version == 6 else self.plan.split4
        if split and split >= self.scope:
            return f"{self.scope}: clients of one /{split} stay together"
        if not self.plan.uses_client:
            return "0: the client does not matter"
        return f"{self.scope}: the largest block around the client in which all have this row"

    def _hints(self) -> str:
        if self.question.type != types.HTTPS:
            return ""
        told = "AAAA" if self.v6 else "A"
        return f"hints are what A and AAAA give to this client; row, rung, candidates and removed are those of {told}"

    def _ttl(self) -> str:
        doubt = "in doubt" if self.rung is Ladder.LAST_GOOD else "in no doubt"
        return f"{self.plan.ttl} s: the answer is {doubt}"


def _static_reason(image: Image, question: Question, answer: reply.Reply) -> str:
    if answer.rcode == types.REFUSED:
        return answer.errors[0][1] if answer.errors else "such questions are not answered here"
    node = image.get(question.name)
    if answer.rcode == types.NXDOMAIN:
        return "the zone has no such name"
    if node is not None and node.cut is not None:
        return f"the name is delegated at {names.to_text(node.cut.name)}"
    if not answer.answer:
        return "the name has no records of this type"
    if node is None:
        return "from a wildcard or an alias of the zone file"
    return "from the zone file"


def _matches(bits: int) -> list[str]:
    return [str(match.name).lower() for match in Match if bits & match]


def _time(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
