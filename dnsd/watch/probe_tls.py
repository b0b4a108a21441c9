"""TLS around another dialogue, or alone: the handshake, the certificate, and then what was to be said.

Lives here: the layer, contexts. Does not live here: what is said inside, sockets.

By default the certificate must be good for the name and come from an authority this machine trusts. OpenSSL asks nobody
for that: no revocation list, no OCSP, no missing issuer is fetched, so no certificate makes this machine connect.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import cache
from typing import Final

from dnsd.watch.outcome import Dialogue, Reason

_MOST: Final = 1 << 16  # of records: a certificate chain comes before the response
_RECORD: Final = 16_384


@cache
def context(verify: bool, alpn: str = "") -> ssl.SSLContext:
    """The settings for one way of asking; made once, so authorities that are added later count after a restart."""
    made = ssl.create_default_context()
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if alpn:
        made.set_alpn_protocols([alpn])
    return made


class Tls:
    """A TLS client; without `inner` the handshake is the verdict. ValueError for a host that is no server name."""

    __slots__ = ("_alpn", "_in", "_inner", "_left", "_out", "_tls", "most", "stands")

    def __init__(self, inner: Dialogue | None, host: str, *, verify: bool, alpn: str = "") -> None:
        self.most, self.stands = _MOST, False
        self._inner, self._alpn = inner, alpn
        self._left = inner.most if inner else 0
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context(verify, alpn).wrap_bio(self._in, self._out, server_hostname=host.rstrip("."))

    def opening(self) -> bytes:
        """The client hello."""
        return self._shaken()[1]

    def received(self, data: bytes) -> tuple[Reason | None, bytes]:
        """More records."""
        self._in.write(data)
        return self._shaken()

    def ended(self, reason: Reason) -> Reason:
        """Before the handshake is over nothing was heard of the inner protocol."""
        return self._inner.ended(reason) if self._inner and self.stands else reason

    def _shaken(self) -> tuple[Reason | None, bytes]:
        reason: Reason | None = None
        try:
            if not self.stands:
                self._tls.do_handshake()
                self.stands = True
                reason = self._begun()
            while reason is None and self._inner is not None:
                reason = self._inside(self._inner)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError:
            reason = Reason.CERTIFICATE
        except ssl.SSLError:  # an alert of the other side, or nonsense
            reason = Reason.TLS
        if self.stands and reason is not None:
            self._part()
        return reason, self._out.read()

    def _begun(self) -> Reason | None:
        if self._alpn and self._tls.selected_alpn_protocol() != self._alpn:
            return Reason.PROTOCOL
        if self._inner is None:
            return Reason.OK
        self._tls.write(self._inner.opening())
        return None

    def _inside(self, inner: Dialogue) -> Reason | None:
        try:
            data = self._tls.read(min(self._left, _RECORD))
        except ssl.SSLZeroReturnError:
            data = b""
        if not data:
            return inner.ended(Reason.CLOSED)
        self._left -= len(data)
        reason, reply = inner.received(data)
        if reply:
            self._tls.write(reply)
        return inner.ended(Reason.TOO_LONG) if reason is None and self._left <= 0 else reason

    def _part(self) -> None:
        """Says goodbye, so that no server has to log a connection cut off; there is no waiting for its answer."""
        with suppress(ssl.SSLError, ValueError):  # its answer is missing, but the goodbye is written
            self._tls.unwrap()
