"""Rules over whole states, pure: every fault at once, blame on the change that causes it."""

from __future__ import annotations

import pytest

from dnsd.model import Fault
from dnsd.registry import errors, rules
from dnsd.registry.fields import Model
from dnsd.registry.models import Endpoint, Kind, Lease, key_of
from dnsd.registry.values import Change, Loaded, Position
from tests.registry import samples as s


def state(*values: Model, corrupt: tuple[str, ...] = ()) -> Loaded:
    kinds: dict[str, dict[str, Model]] = {"Site": {}, "Service": {}, "Endpoint": {}, "Lease": {}, "Override": {}}
    for value in values:
        kinds[type(value).__name__][key_of(value)] = value
    return Loaded(Position(1, 1, "1-0/x", "x"), *kinds.values(), {}, [Fault(p, "bad") for p in corrupt])


FRA, AMS, API = s.site("fra"), s.site("ams"), s.service()
E = s.endpoint("e")
LEASED = s.endpoint("l", lease="h")
LEASE = Lease(id="h", holder="h", fence=1, ttl=9, deadline=1, endpoints=(LEASED.key,), token="t")


def put(value: Model) -> Change:
    return Change("put", Kind(type(value).__name__.lower()), value)


def delete(kind: Kind, key: str) -> Change:
    return Change("delete", kind, key=key)


CASES = [
    ("nothing", state(FRA, API, E, LEASED, LEASE), [], {}),
    ("new with its references", state(), [put(E), put(API), put(FRA)], {}),
    ("unknown references", state(), [put(E)], {
        "/0/site": "no such site: fra", "/0/service": f"no such service: {s.API}"}),
    ("site in use", state(FRA, API, E), [delete(Kind.SITE, "fra")], {"/0": f"in use by 1 endpoints: {s.API}/e"}),
    ("service in use by many", state(FRA, API, *(s.endpoint(f"e{i}") for i in range(5))), [
        delete(Kind.SERVICE, s.API)], {"/0": f"in use by 5 endpoints: {s.API}/e0, {s.API}/e1, {s.API}/e2, …"}),
    ("user goes too", state(FRA, API, E), [delete(Kind.SITE, "fra"), delete(Kind.ENDPOINT, E.key)], {}),
    ("user moves", state(FRA, AMS, API, E), [delete(Kind.SITE, "fra"), put(s.endpoint("e", site="ams"))], {}),
    ("user comes", state(FRA, API), [delete(Kind.SITE, "fra"), put(E)], {"/1/site": "no such site: fra"}),
    ("leased endpoint", state(FRA, API, LEASED, LEASE), [delete(Kind.ENDPOINT, LEASED.key)], {
        "/0": "the endpoint is held by lease h"}),
    ("lease is gone", state(FRA, API, LEASED), [], {
        f"endpoint/{LEASED.key}/lease": "lease h is gone; delete the endpoint"}),
    ("lease is gone, deleted", state(FRA, API, LEASED), [delete(Kind.ENDPOINT, LEASED.key)], {}),
    ("latent", state(API, E), [put(AMS)], {f"endpoint/{E.key}/site": "no such site: fra"}),
    ("corrupt", state(corrupt=("site/fra", "owned/x")), [put(AMS)], {"site/fra": "bad"}),
    ("corrupt, replaced", state(corrupt=("site/fra",)), [put(FRA)], {}),
    ("corrupt, deleted", state(corrupt=("site/fra",)), [delete(Kind.SITE, "fra")], {}),
    ("deleted twice over", state(), [delete(Kind.SITE, "fra")], {"/0": "there is no such object"}),
    ("token", state(), [delete(Kind.TOKEN, "t"), put(s.token("u"))], {}),
    ("override of nothing", state(), [put(s.override("fra"))], {"/0/name": "there is no site fra"}),
    ("override of what goes", state(FRA), [put(s.override("fra")), delete(Kind.SITE, "fra")], {
        "/0/name": "there is no site fra"}),
    ("override of what comes", state(API), [
        put(s.override(E.key, target="endpoint")), put(E), put(FRA), put(s.override(s.API, target="service"))], {}),
]


@pytest.mark.parametrize(("before", "changes", "faults"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_whole_resulting_state(before: Loaded, changes: list[Change], faults: dict[str, str]) -> None:
    kept = before.sites.copy(), before.endpoints.copy()
    assert rules.shape(changes) == []
    assert {broken.fault.place: broken.fault.message for broken in rules.check(before, changes)} == faults
    assert (before.sites, before.endpoints) == kept


SHAPES = [
    (delete(Kind.LEASE, "h"), "", "leases are acquired and released, not written"),
    (Change("put", Kind.SITE, API), "/value", "not a site"),
    (Change("put", Kind.SITE), "/value", "not a site"),
    (Change("delete", Kind.SITE), "/key", "no key"),
    (put(LEASED), "/lease", "a leased endpoint comes with its lease"),
    (put(s.site("x", carriers=[f"c{i:030}" for i in range(600)])), "", "longer than 16384 octets"),
]


@pytest.mark.parametrize(("change", "pointer", "message"), SHAPES)
def test_shapes(change: Change, pointer: str, message: str) -> None:
    assert rules.shape([put(AMS), change]) == [
        rules.Broken(errors.Invalid, Fault(f"/1{pointer}", message))]


def test_every_fault_at_once() -> None:
    broken = rules.shape([change for change, _, _ in SHAPES] + [put(AMS), put(AMS)])
    assert len(broken) == len(SHAPES) + 1
    assert broken[-1].fault == Fault(f"/{len(SHAPES) + 1}", "site ams is changed twice")
    many = [put(s.site(f"s{i}")) for i in range(rules.CHANGES + 1)]
    assert [b.fault.message for b in rules.shape(many)] == ["5001 changes are more than 5000"]


def test_the_most_general_sort_gives_the_status() -> None:
    def error(*sorts: type[errors.RegistryError]) -> errors.RegistryError:
        return rules.error([rules.Broken(sort, Fault("/", "x")) for sort in sorts])

    assert isinstance(error(errors.NotFound, errors.Conflict), errors.Conflict)
    assert isinstance(error(errors.NotFound, errors.Invalid, errors.Conflict), errors.Invalid)
    assert isinstance(error(errors.NotFound), errors.NotFound)
    assert len(error(errors.NotFound, errors.Conflict).faults) == 2


def test_keys_of_kinds() -> None:
    assert [key_of(v) for v in (FRA, API, E, LEASE, s.override(), s.token("t"))] == [
        "fra", s.API, E.key, "h", "site:fra", "t"]
    with pytest.raises(TypeError):
        key_of(Endpoint.model_fields["id"])
