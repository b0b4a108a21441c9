"""Certificates that vouch for themselves, for tests."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


def write(
    folder: Path, *, serial: int = 1, password: bytes = b"", kind: Literal["ec", "rsa"] = "ec",
) -> tuple[str, str]:
    """Makes `cert.pem`, for 127.0.0.1 and dnsd.example, and `key.pem`; each put in place in one step. Their paths."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
        ec.generate_private_key(ec.SECP256R1()) if kind == "ec" else rsa.generate_private_key(65537, 2048))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dnsd.example")])
    now = datetime.datetime.now(datetime.UTC)
    others = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("dnsd.example")]
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(serial).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(others), critical=False).sign(key, hashes.SHA256()))
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    put(folder / "cert.pem", made.public_bytes(pem))
    put(folder / "key.pem", key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked))
    return str(folder / "cert.pem"), str(folder / "key.pem")


def put(path: Path, data: bytes) -> None:
    """Replaces a file in one step."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.replace(path)
