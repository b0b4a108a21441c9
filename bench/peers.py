"""The other servers of the comparison, each as its distribution has it, with the same zone and one thread that answers.

Lives here: settings of gdnsd, Knot, NSD, BIND and PowerDNS. Does not live here: dnsd (`nodes`), processes (`servers`).

None limits rates, all leave out additional records. gdnsd chooses by distance, as dnsd does; Knot and PowerDNS by
country, which is the finest they have without a list of networks; NSD and BIND have static names only. gdnsd, NSD and
BIND answer DNS cookies. Knot and PowerDNS pass over them: with cookies on, they answer BADCOOKIE to whoever has none
yet. DNS over TLS: BIND only; NSD 4.6 does not see the second of two queries in one TLS record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import servers
import workloads
from servers import Server, answers, doors, find, process
from workloads import PLACED, STATIC, TCP, TLS, ZONE

from tests import certificates

_COOKIE: Final = "000102030405060708090a0b0c0d0e0f"
_FALLBACK: Final = workloads.sites()[0].address


@contextmanager
def gdnsd(folder: Path) -> Iterator[Server]:
    """gdnsd with the same sixteen places (nearest by distance) and the same location data."""
    program, port = find("gdnsd"), servers.free_port()
    for name in ("zones", "run", "state"):
        (folder / name).mkdir(parents=True)
    places = workloads.sites()
    (folder / "config").write_text(f"""
options => {{
  listen => {{ 127.0.0.1:{port} => {{ udp_threads => 1, tcp_threads => 1 }} }}
  run_dir => {folder}/run, state_dir => {folder}/state
}}
plugins => {{ geoip => {{
  maps => {{ bench => {{
    geoip2_db => {workloads.GEO}
    datacenters => [{", ".join(s.id for s in places)}]
    auto_dc_coords => {{ {", ".join(f"{s.id} => [{s.latitude}, {s.longitude}]" for s in places)} }}
  }} }}
  resources => {{ geo => {{
    map => bench, service_types => up, dcmap => {{ {", ".join(f"{s.id} => {s.address}" for s in places)} }}
  }} }}
}} }}
""", encoding="utf-8")
    (folder / "zones" / ZONE).write_text(workloads.zone_text() + "geo 8 DYNA geoip!geo\n", encoding="utf-8")
    with process([program, "-c", str(folder), "start"], folder / "log", answers(port)) as pids:
        yield Server("gdnsd", _line(servers.said(program, "-h"), "gdnsd version"),
                     doors((*STATIC, *PLACED, *TCP), port, *pids))


@contextmanager
def knot(folder: Path) -> Iterator[Server]:
    """Knot with mod-geoip by country; without that module, with static names only."""
    program, port = find("knotd"), servers.free_port()
    placed = bool(list(Path("/usr/lib").glob("*/knot/modules-*/geoip.so")))
    folder.mkdir(parents=True)
    _zone(folder, f"geo 8 A {_FALLBACK}\n")
    (folder / "places").write_text("\n".join(
        [f"{workloads.SERVICE}:", *(f'  - geo: "{country}"\n    A: {address}' for country, address in (
            *workloads.countries().items(), ("*", _FALLBACK)))]) + "\n", encoding="utf-8")
    (folder / "conf").write_text(f"""
server:
    rundir: "{folder}"
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    edns-client-subnet: on
    automatic-acl: off
log:
  - target: stderr
    any: warning
database:
    storage: "{folder}"
{f'''mod-geoip:
  - id: places
    config-file: "{folder}/places"
    ttl: 8
    mode: geodb
    geodb-file: "{workloads.GEO}"
    geodb-key: country/iso_code''' if placed else ""}
template:
  - id: default
    storage: "{folder}"
    zonefile-load: whole
    zonefile-sync: -1
    journal-content: none
zone:
  - domain: {ZONE}
    file: zone
    {"module: mod-geoip/places" if placed else ""}
""", encoding="utf-8")
    with process([program, "-c", str(folder / "conf")], folder / "log", answers(port)) as pids:
        yield Server("knot", _line(servers.said(program, "--version"), "knotd"),
                     doors((*STATIC, *(PLACED if placed else ()), *TCP), port, *pids), by_country=True)


@contextmanager
def nsd(folder: Path) -> Iterator[Server]:
    """NSD: one server process, rate limits off."""
    program, port = find("nsd"), servers.free_port()
    folder.mkdir(parents=True)
    _zone(folder)
    (folder / "conf").write_text(f"""
server:
    server-count: 1
    ip-address: 127.0.0.1@{port}
    do-ip6: no
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    pidfile: "{folder}/pid"
    xfrdfile: "{folder}/xfrd.state"
    xfrdir: "{folder}"
    zonelistfile: "{folder}/zone.list"
    minimal-responses: yes
    rrl-ratelimit: 0
    rrl-whitelist-ratelimit: 0
    answer-cookie: yes
    cookie-secret: {_COOKIE}
remote-control:
    control-enable: no
zone:
    name: {ZONE}
    zonefile: zone
""", encoding="utf-8")
    with process([program, "-d", "-c", str(folder / "conf")], folder / "log", answers(port)) as pids:
        yield Server("nsd", _line(servers.said(program, "-v"), "NSD version"), doors((*STATIC, *TCP), port, *pids))


@contextmanager
def bind(folder: Path) -> Iterator[Server]:
    """BIND: one thread."""
    program, port, tls = find("named"), servers.free_port(), servers.free_port()
    folder.mkdir(parents=True)
    _zone(folder)
    certificate, key = certificates.write(folder)
    (folder / "conf").write_text(f"""
tls here {{ cert-file "{certificate}"; key-file "{key}"; }};
options {{
  directory "{folder}";
  pid-file "{folder}/pid";
  session-keyfile none;
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on port {tls} tls here {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  recursion no;
  dnssec-validation no;
  notify no;
  minimal-responses yes;
  answer-cookie yes;
  cookie-secret "{_COOKIE}";
}};
controls {{ }};
zone "{ZONE}" {{ type primary; file "zone"; }};
""", encoding="utf-8")
    with process([program, "-g", "-n", "1", "-c", str(folder / "conf")], folder / "log", answers(port)) as pids:
        yield Server("bind", _line(servers.said(program, "-v"), "BIND"),
                     doors((*STATIC, *TCP), port, *pids) | doors(TLS, tls, *pids))


@contextmanager
def pdns(folder: Path) -> Iterator[Server]:
    """PowerDNS: the bind backend for static names, the geoip backend by country; caches as they are."""
    program, port = find("pdns_server"), servers.free_port()
    folder.mkdir(parents=True)
    _zone(folder)
    (folder / "bind.conf").write_text(
        f'zone "{ZONE}" {{ type master; file "{folder}/zone"; }};\n', encoding="utf-8")
    rows = [f"      {country.lower()}.{workloads.SERVICE}:\n        - a: {address}"
            for country, address in (*workloads.countries().items(), ("unknown", _FALLBACK))]
    (folder / "places").write_text(f"""domains:
  - domain: {workloads.SERVICE}
    ttl: 8
    records:
      {workloads.SERVICE}:
        - soa: ns1.{ZONE} hostmaster.{ZONE} 1 7200 900 1209600 60
        - ns: ns1.{ZONE}
{chr(10).join(rows)}
    services:
      {workloads.SERVICE}: ['%cc.{workloads.SERVICE}', 'unknown.{workloads.SERVICE}']
""", encoding="utf-8")
    (folder / "pdns.conf").write_text(f"""
launch=bind,geoip
bind-config={folder}/bind.conf
geoip-database-files=mmdb:{workloads.GEO}
geoip-zones-file={folder}/places
edns-subnet-processing=yes
local-address=127.0.0.1
local-port={port}
socket-dir={folder}
receiver-threads=1
distributor-threads=1
guardian=no
daemon=no
disable-syslog=yes
loglevel=3
security-poll-suffix=
setuid=
setgid=
""", encoding="utf-8")
    with process([program, f"--config-dir={folder}"], folder / "log", answers(port, workloads.SERVICE)) as pids:
        yield Server("pdns", _line(servers.said(program, "--version"), "PowerDNS"),
                     doors((*STATIC, *PLACED, *TCP), port, *pids), by_country=True)


ALL: Final[dict[str, Callable[[Path], AbstractContextManager[Server]]]] = {
    "gdnsd": gdnsd, "knot": knot, "nsd": nsd, "bind": bind, "pdns": pdns}


def _zone(folder: Path, more: str = "") -> None:
    (folder / "zone").write_text(workloads.zone_text() + more, encoding="utf-8")


def _line(text: str, word: str) -> str:
    """The part of a line from a word on, without what follows in brackets: a version."""
    found = next((line for line in text.splitlines() if word in line), word)
    return found[found.index(word) :].partition(" (C)")[0].partition(" <id")[0].strip()
