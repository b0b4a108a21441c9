"""Settings: what is accepted, and that everything wrong is named at once and with its place."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dnsd import config, option_types, options
from dnsd.config import ConfigError
from dnsd.serve.crowd import Limits

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("DNSD_"):
            monkeypatch.delenv(name)


def write(folder: Path, text: str) -> Path:
    path = folder / "dnsd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(path: Path) -> list[tuple[str, str]]:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert str(caught.value)
    return [(fault.place.removeprefix(f"{path.parent}/"), fault.message) for fault in caught.value.faults]


def test_an_empty_file_gives_a_node_on_loopback(tmp_path: Path) -> None:
    settings = config.load(write(tmp_path, ""))
    assert settings.listen == ("127.0.0.1:5300", "[::1]:5300")
    assert settings.admin.listen == ("127.0.0.1:8053",)
    assert settings.registry.url is None
    assert settings.node
    assert settings.worker_count >= 1
    assert (settings.atlas, settings.maps) == (settings.state / "atlas", settings.state / "maps")


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    settings = config.load(write(tmp_path, """
        state = "var"
        [data]
        directory = "data"
        atlas = "/srv/atlas"
        [[zones]]
        name = "Example.COM."
        file = "zones/example.com"
    """))
    assert settings.state == tmp_path / "var"
    assert settings.data.directory == tmp_path / "data"
    assert settings.atlas == Path("/srv/atlas")
    assert settings.zones[0].file == tmp_path / "zones/example.com"
    assert settings.zones[0].name == "example.com"


def test_variables_beat_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, 'workers = 2\nstate = "var"\n[tcp]\nidle_seconds = 3\nqueries = 7')
    monkeypatch.setenv("DNSD_WORKERS", "5")
    monkeypatch.setenv("DNSD_LISTEN", '["127.0.0.1:53"]')
    monkeypatch.setenv("DNSD_TCP__IDLE_SECONDS", "4")
    monkeypatch.setenv("DNSD_STATE", "/srv/state")
    settings = config.load(path)
    assert (settings.workers, settings.listen, settings.state) == (5, ("127.0.0.1:53",), Path("/srv/state"))
    assert (settings.tcp.idle_seconds, settings.tcp.queries) == (4, 7)


@pytest.mark.parametrize(("text", "expected"), [
    ("= 1", [("dnsd.toml:1", "Invalid statement")]),
    ("\n[tcp\n", [("dnsd.toml:2", "Expected ']'")]),
    ("worker = 2", [("dnsd.toml:1", "worker: no such option; workers?")]),
    ("\n[tcp]\nidle = 2", [("dnsd.toml:3", "tcp.idle: no such option")]),
    ("[nonsense]\na = 1", [("dnsd.toml:1", "nonsense: no such option")]),
    ('workers = "many"\nlog_level = "loud"\n', [
        ("dnsd.toml:1", "workers: Input should be a valid integer"),
        ("dnsd.toml:2", "log_level: Input should be 'debug', 'info', 'warning' or 'error'")]),
    ("[tcp]\nconnections = 0\nidle_seconds = nan\nstall_seconds = inf", [
        ("dnsd.toml:2", "tcp.connections"), ("dnsd.toml:3", "tcp.idle_seconds"), ("dnsd.toml:4", "tcp.stall_seconds")]),
    ('[[zones]]\nname = "a"\nfile = "a"\n[[zones]]\nfile = "b"', [("dnsd.toml:4", "zones[1].name: Field required")]),
    ('[[zones]]\nname = "a"\nfile = "a"\n[[zones]]\nname = "A."\nfile = "b"', [
        ("dnsd.toml:1", "zones: a is there twice")]),
    ('[[zones]]\nname = "-a.b"\nfile = "a"', [("dnsd.toml:2", "zones[0].name: not a domain name")]),
    ("listen = []", [("dnsd.toml:1", "listen")]),
    ('[tls]\nlisten = ["127.0.0.1:853"]', [("dnsd.toml:1", "tls: listen needs certificate and key")]),
    ('[tls]\nlisten = ["127.0.0.1"]', [("dnsd.toml:2", "tls.listen: '127.0.0.1': not an address and port")]),
    ('[tcp]\nproxy_from = ["192.0.2.1/24", "x"]', [
        ("dnsd.toml:2", "tcp.proxy_from: 192.0.2.1/24 has host bits set; 'x' does not appear to be")]),
    ('[rate]\nanswers = -1\nothers = 0\nexempt = ["y"]', [
        ("dnsd.toml:2", "rate.answers"), ("dnsd.toml:3", "rate.others"), ("dnsd.toml:4", "rate.exempt: 'y'")]),
    ('[why]\nallow = ["key:a b", "10.0.0.0/8"]', [("dnsd.toml:2", "why.allow: not a domain name")]),
    ('[why]\nallow = ["key:nobody"]', [("dnsd.toml", "why.allow: there is no key 'nobody'")]),
    ('[[zones]]\nname = "a"\nfile = "a"\ntransfer = ["key:k"]\nnotify_key = "l"', [
        ("dnsd.toml", "zones[0].transfer: there is no key 'k'; zones[0].notify_key: there is no key 'l'")]),
    ('[[zones]]\nname = "a"\nfile = "a"\nnotify = ["192.0.2.1"]', [
        ("dnsd.toml:4", "zones[0].notify: '192.0.2.1': not an address and port")]),
    ('[[zones]]\nname = "a"\nfile = "a"\nnotify = ["192.0.2.1:0", "[::]:53"]', [
        ("dnsd.toml:4", "zones[0].notify: 192.0.2.1:0, [::]:53: nobody is told there")]),
    ('[rate]\nraised = ["::ffff:10.0.0.0/104", "::/0", "fe80::1%eth0"]', [
        ("dnsd.toml:2", "rate.raised: ::ffff:10.0.0.0/104, fe80::1%eth0: no client is seen under such an address")]),
    ('[[zones]]\nname = "a"\nfile = "a"\ntransfer = ["::ffff:10.0.0.1"]', [
        ("dnsd.toml:4", "zones[0].transfer: ::ffff:10.0.0.1: no client is seen under such an address")]),
    ('[[keys]]\nname = "k"', [("dnsd.toml:1", "keys[0]: either secret or secret_file must be given")]),
    ('[[keys]]\nname = "k"\nsecret = "YWJj"\nsecret_file = "x"', [
        ("dnsd.toml:1", "keys[0]: secret and secret_file are both given")]),
    ('state = ""', [("dnsd.toml:1", "state: empty: the working directory")]),
    ('[[keys]]\nname = "k"\nsecret = "!!"', [("dnsd.toml:1", "keys[0]: the secret cannot be read")]),
    ('[[keys]]\nname = "k"\nsecret = "YWJj"', [("dnsd.toml:1", "keys[0]: the secret is shorter than 16 octets")]),
    ('[[keys]]\nname = "k"\nsecret_file = "nowhere"', [("dnsd.toml:1", "keys[0]: the secret cannot be read")]),
    ('[[keys]]\nname = "k"\nalgorithm = "hmac-md5"\nsecret_file = "nowhere"', [
        ("dnsd.toml:3", "keys[0].algorithm: Input should be")]),
    ('[capture]\ndnstap = "x"\nevery = 0\nclients = "none"', [
        ("dnsd.toml:2", "capture.dnstap"), ("dnsd.toml:3", "capture.every"), ("dnsd.toml:4", "capture.clients")]),
    ('listen = ["localhost:53", "127.0.0.1", "::1:53", "[::1]:99999", "224.0.0.1:53", "[::ffff:1.2.3.4]:53"]', [
        ("dnsd.toml:1", "listen: 'localhost:53': not an address")]),
    ('listen = ["127.0.0.1:53", "127.0.0.1:53"]', [("dnsd.toml:1", "listen: '127.0.0.1:53' is there twice")]),
    ('[admin]\nlisten = ["192.0.2.1:8053"]', [
        ("dnsd.toml:1", "admin: 192.0.2.1:8053 is not loopback: that needs certificate and key")]),
    ('[admin]\nlisten = ["0.0.0.0:8053", "127.0.0.1:8053"]', [("dnsd.toml:1", "admin: 0.0.0.0:8053 is not loopback")]),
    ('[admin]\ncertificate = "c.pem"', [("dnsd.toml:1", "admin: certificate and key are given together")]),
    ('[admin]\nlisten = ["[2001:db8::1]:1"]\ncertificate = "c.pem"\nkey = "k.pem"', [
        ("dnsd.toml:1", "admin: certificate and key cannot be used")]),
    ('[registry]\nurl = "http://x"\nprefix = "a b"', [
        ("dnsd.toml:2", "registry.url: String should match"), ("dnsd.toml:3", "registry.prefix")]),
    ('[data]\ndirectory = "nowhere"\n', [("dnsd.toml:1", "data: directory: ")]),
    ('[data]\ncidrs = "nowhere"\n', [("dnsd.toml:1", "data: cidrs: ")]),
    ('node = "A B"', [("dnsd.toml:1", "node: String should match")]),
])
def test_every_fault_has_its_place(tmp_path: Path, text: str, expected: list[tuple[str, str]]) -> None:
    found = faults(write(tmp_path, text))
    assert len(found) == len(expected), found
    for (place, message), (right_place, start) in zip(found, expected, strict=True):
        assert place == right_place
        assert message.startswith(start)


def test_all_bad_addresses_are_named(tmp_path: Path) -> None:
    [(_, message)] = faults(write(tmp_path, 'listen = ["localhost:53", "::1:53", "127.0.0.1:5a", "127.0.0.1:99999"]'))
    assert all(part in message for part in ("'localhost:53'", "'::1:53'", "'127.0.0.1:5a'", "port 99999 is above"))


@pytest.mark.parametrize(("name", "value", "message"), [
    ("DNSD_WORKRES", "1", "no such option; DNSD_WORKERS?"),
    ("DNSD_TCP__IDLE", "1", "no such option"),
    ("DNSD_WORKERS", "x", "Input should be a valid integer"),
    ("DNSD_TCP__QUERIES", "0", "Input should be greater than or equal to 1"),
    ("DNSD_LISTEN", "127.0.0.1:53", "not JSON"),
])
def test_a_bad_variable_is_named(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    [(place, found)] = faults(write(tmp_path, ""))
    assert place == name
    assert found.startswith(message)


@pytest.mark.parametrize("name", [
    "DNSD_CONFIG", "DNSD_URL", "DNSD_TOKEN", "DNSD_SERVICE_HOST", "DNSD_SERVICE_PORT_DNS", "DNSD_PORT",
    "DNSD_PORT_53_UDP_ADDR"])
def test_other_variables_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = config.load(write(tmp_path, ""))
    monkeypatch.setenv(name, "tcp://10.0.0.1:53")
    assert config.load(write(tmp_path, "")) == before


def test_faults_of_file_and_variables_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNSD_NOTHING", "1")
    monkeypatch.setenv("DNSD_WORKERS", "x")
    found = faults(write(tmp_path, "nothing = 1"))
    assert [place for place, _ in found] == ["DNSD_NOTHING", "DNSD_WORKERS", "dnsd.toml:1"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_an_unreadable_file_is_a_fault(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "dnsd.toml"
    if content is not None:
        path.write_bytes(content)
    [(place, message)] = faults(path)
    assert place == "dnsd.toml"
    assert message


@pytest.mark.parametrize(("text", "expected"), [
    ("127.0.0.1:53", ("127.0.0.1", 53)), ("[::1]:0", ("::1", 0)), ("0.0.0.0:53", ("0.0.0.0", 53)),
    ("[::]:53", ("::", 53)), ("[fe80::1%lo]:53", ("fe80::1%lo", 53))])
def test_address(text: str, expected: tuple[str, int]) -> None:
    assert option_types.address(text) == expected


@pytest.mark.parametrize("url", [
    "redis://h", "rediss://u:p@h:6380/0", "unix:///run/store.sock", "redis+sentinel://a:1,b:2/main"])
def test_store_urls(tmp_path: Path, url: str) -> None:
    assert config.load(write(tmp_path, f'[registry]\nurl = "{url}"')).registry.url == url


def test_with_a_certificate_the_admin_api_may_leave_loopback(tmp_path: Path) -> None:
    for password, usable in ((None, True), (b"secret", False)):
        own_certificate(tmp_path, password)
        path = write(tmp_path, '[admin]\nlisten = ["192.0.2.1:8053"]\ncertificate = "c.pem"\nkey = "k.pem"')
        if usable:
            assert config.load(path).admin.certificate == tmp_path / "c.pem"
        else:
            assert [place for place, _ in faults(path)] == ["dnsd.toml:1"]


def test_dnstap_needs_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[capture]\nlog = "queries"\ndnstap = "unix:/run/collector"\n'
    assert config.load(write(tmp_path, text)).capture.log == tmp_path / "queries"
    monkeypatch.setattr(options, "find_spec", lambda name: None if name == "fstrm" else object())
    with pytest.raises(ConfigError, match="dnstap needs fstrm, which dnsd's extra `dnstap` installs"):
        config.load(write(tmp_path, text))
    config.load(write(tmp_path, '[capture]\nlog = "queries"\n'))


def test_keys_are_known_by_name_and_never_shown(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("MDEyMzQ1Njc4OWFi\nY2RlZg==\n")
    settings = config.load(write(tmp_path, """
        [why]
        allow = ["key:K.Example.", "192.0.2.0/24"]
        [[zones]]
        name = "a"
        file = "a"
        transfer = ["key:k.example", "2001:db8::/32"]
        notify_key = "k.example"
        [[keys]]
        name = "K.example."
        secret_file = "secret"
        [[keys]]
        name = "other"
        secret = "MDEyMzQ1Njc4OWFiY2RlZg=="
    """))
    assert settings.why.allow == ("key:k.example", "192.0.2.0/24")
    assert [key.octets() for key in settings.keys] == [b"0123456789abcdef"] * 2
    assert "MDEy" not in repr(settings)


@pytest.mark.parametrize(("listen", "tls", "clash"), [
    ("127.0.0.1:853", "127.0.0.1:853", True), ("[::1]:853", "[0:0::1]:853", True),
    ("0.0.0.0:853", "127.0.0.1:853", True),
    ("[::1]:853", "[::]:853", True), ("0.0.0.0:853", "[::]:853", False), ("127.0.0.1:853", "127.0.0.2:853", False),
    ("127.0.0.1:0", "127.0.0.1:0", False), ("0.0.0.0:53", "0.0.0.0:853", False)])
def test_one_address_is_not_for_dns_and_for_tls(listen: str, tls: str, clash: bool, tmp_path: Path) -> None:
    """The kernel would share the port out: workers' sockets let each other have it."""
    own_certificate(tmp_path)
    path = write(tmp_path, f'listen = ["{listen}"]\n[tls]\nlisten = ["{tls}"]\ncertificate = "c.pem"\nkey = "k.pem"')
    if clash:
        assert faults(path) == [("dnsd.toml", f"tls.listen: {tls} is in listen too")]
    else:
        assert config.load(path).tls.listen == (tls,)


def test_cookies_live_in_the_state_unless_told_otherwise(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, 'state = "s"')).cookie_file == tmp_path / "s/cookies"
    assert config.load(write(tmp_path, '[cookies]\nfile = "c"')).cookie_file == tmp_path / "c"
    assert config.load(write(tmp_path, "[cookies]\nenabled = false")).cookie_file is None


def own_certificate(folder: Path, password: bytes | None = None) -> None:
    """A pair c.pem and k.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
                   .serial_number(1).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=1))
                   .sign(key, hashes.SHA256()))
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    (folder / "c.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "k.pem").write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


def test_a_dump_has_what_a_child_needs(tmp_path: Path) -> None:
    dump = config.load(write(tmp_path, '[[zones]]\nname = "a"\nfile = "a.zone"')).model_dump(mode="json")
    assert dump["zones"] == [
        {"name": "a", "file": str(tmp_path / "a.zone"), "transfer": [], "notify": [], "notify_key": None}]
    assert dump["tcp"].pop("proxy_from") == []
    assert Limits(**dump["tcp"]) == Limits()


def test_the_reference_agrees_with_the_options() -> None:
    page = (ROOT / "docs" / "config.md").read_text(encoding="utf-8")
    assert page.endswith("\n\n" + config.reference()), "paste what `config.reference()` gives into docs/config.md"
    for name, field, _ in config.options():
        assert field.description, name
