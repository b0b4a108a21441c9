"""What the source files themselves say of an address, by longest prefix: geo through geoip2, AS through pyasn.

Lives here: looking addresses up in the files as they are, alone or as a process that is handed a task. Does not live
here: reading the files whole (`atlas.sources`): the two share no code, so that one can check the other (`atlas.check`).

`python -m dnsd.atlas.raw` reads `{"directory": path, "files": {role: path}, "addresses": [text, ...]}` and writes the
answers as one list; it ends with an error where a file cannot be read.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import geoip2.database
import geoip2.errors
import maxminddb
import pyasn

Answer = dict[str, Any]
Address = IPv4Address | IPv6Address


@contextmanager
def lookup(
        directory: Path, files: Mapping[str, str], *, networks: bool = True) -> Iterator[Callable[[Address], Answer]]:
    """A function that looks an address up in the source files themselves: geo through geoip2, AS through pyasn.

    `files` are the paths by role (`geo`, `asn`). Answers have `latitude longitude country region geo_network` and
    `asn asn_network`, None where a file has nothing; without `networks` the prefixes are left out.
    """
    with ExitStack() as stack:
        readers = [_geo(stack, directory / files["geo"], networks)] if "geo" in files else []
        if "asn" in files:
            readers.append(_asn(stack, directory / files["asn"], networks))
        yield lambda address: {key: value for read in readers for key, value in read(address).items()}


def _geo(stack: ExitStack, path: Path, networks: bool) -> Callable[[Address], Answer]:
    reader = stack.enter_context(geoip2.database.Reader(str(path)))
    kind = reader.metadata().database_type
    method = next(getattr(reader, name.lower()) for name in ("City", "Country", "Enterprise") if name in kind)

    def look(address: Address) -> Answer:
        try:
            said = method(address)
        except geoip2.errors.AddressNotFoundError:
            return dict.fromkeys(("latitude", "longitude", "country", "region", *(["geo_network"] if networks else [])))
        location = getattr(said, "location", None)
        country = said.country.iso_code or said.registered_country.iso_code
        return {"latitude": location and location.latitude, "longitude": location and location.longitude,
                "country": country and country.upper(), "region": said.continent.code and said.continent.code.lower(),
                **({"geo_network": str(said.traits.network)} if networks else {})}

    return look


def _asn(stack: ExitStack, path: Path, networks: bool) -> Callable[[Address], Answer]:
    if path.suffix == ".mmdb":
        reader = stack.enter_context(maxminddb.open_database(str(path)))  # geoip2 takes MaxMind's own kind only

        def look(address: Address) -> Answer:
            record, length = reader.get_with_prefix_len(address)
            number = record.get("autonomous_system_number") if isinstance(record, dict) else None
            network = {"asn_network": str(ip_network((address, length), False)) if number else None} if networks else {}
            return {"asn": number or None, **network}

        return look
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # pyasn leaves the file open
        table = pyasn.pyasn(str(path))

    def look_up(address: Address) -> Answer:
        asn, network = table.lookup(str(address))
        return {"asn": asn or None, **({"asn_network": network} if networks else {})}

    return look_up


def main() -> None:
    """The process: a task in, answers out."""
    task = json.load(sys.stdin)
    with lookup(Path(task["directory"]), task["files"], networks=False) as look:
        json.dump([look(ip_address(text)) for text in task["addresses"]], sys.stdout)


if __name__ == "__main__":
    main()
