"""dnstap: a sampled query and its answer as Frame Streams data frames, for collectors that speak it.

Lives here: protocol buffers and framing, both by libraries (the extra `dnstap`; only loaded where it is asked for).
Does not live here: sampling (`serve.tap`), sockets and files (`control.outlet`).

A sample is two messages, AUTH_QUERY and AUTH_RESPONSE, or only the first where the client got nothing. Where client
addresses are not to be told whole, the octets behind the prefix are zero, also in the client subnet inside of messages.
"""

from __future__ import annotations

from typing import Any, Final

import dnstap_pb
import fstrm

from dnsd.control import asked
from dnsd.control.querylog import prefix
from dnsd.dns.wire import FormError
from dnsd.image import samples
from dnsd.image.samples import Origin, Sample

CONTENT: Final = b"protobuf:dnstap.Dnstap"
HANDSHAKE_MAX: Final = 4096  # octets; an ACCEPT is 42
_codec: Final = fstrm.FstrmCodec()
READY: Final[bytes] = _codec.encode_ctrlready(CONTENT)
START: Final[bytes] = _codec.encode_ctrlstart(CONTENT)
STOP: Final[bytes] = _codec.encode(fstrm.FSTRM_CONTROL_STOP)
_PROTOCOLS: Final = {samples.UDP: dnstap_pb.UDP, samples.TCP: dnstap_pb.TCP, samples.TLS: dnstap_pb.DOT}


class Accepting:
    """The collector's side of the handshake, as it comes in."""

    def __init__(self) -> None:
        self._codec = fstrm.FstrmCodec()
        self._seen = 0

    def take(self, data: bytes) -> bool:
        """Whether the collector has accepted; ValueError when it says anything else."""
        self._seen += len(data)
        self._codec.append(data)
        if self._seen > HANDSHAKE_MAX:
            raise ValueError("the collector's handshake does not end")
        try:
            if not self._codec.process():
                return False
            kind, contents, _ = self._codec.decode()
        except Exception as error:  # the library raises bare ones for whatever it does not like
            raise ValueError(f"the collector speaks no Frame Streams: {error}") from None
        if kind != fstrm.FSTRM_CONTROL_ACCEPT or (contents and CONTENT not in contents):
            raise ValueError("the collector does not accept dnstap")
        return True


class Frames:
    """Makes a node's frames."""

    def __init__(self, node: str, version: str, *, whole: bool) -> None:
        self._node, self._version = node.encode(), f"dnsd {version}".encode()
        self._whole = whole

    def frames(self, origin: Origin, sample: Sample) -> bytes:
        """The data frames of a sample."""
        query, reply = (sample.query, sample.reply) if self._whole else _masked(sample.query, sample.reply)
        done = self._frame(origin, sample, dnstap_pb.Message.AUTH_QUERY, query_message=query)
        if reply:
            done += self._frame(origin, sample, dnstap_pb.Message.AUTH_RESPONSE, response_message=reply)
        return done

    def _frame(self, origin: Origin, sample: Sample, kind: int, **content: bytes) -> bytes:
        tap = dnstap_pb.Dnstap(
            type=dnstap_pb.Dnstap.MESSAGE, identity=self._node, version=self._version,
            extra=b"every=%d worker=%d" % (origin.every, origin.slot))
        message = tap.message
        message.type = kind
        message.socket_protocol = _PROTOCOLS[origin.transport]
        host = sample.client.host if self._whole else _cut(sample.client.host)
        message.socket_family = dnstap_pb.INET if len(host) == 4 else dnstap_pb.INET6
        message.query_address = host
        if self._whole and sample.client.port:
            message.query_port = sample.client.port
        if origin.local.host:
            message.response_address, message.response_port = origin.local
        message.query_time_sec, message.query_time_nsec = divmod(origin.time, 10**9)
        if "response_message" in content:
            message.response_time_sec, message.response_time_nsec = divmod(origin.time, 10**9)
        for name, data in content.items():
            setattr(message, name, data)
        return bytes(_codec.encode_data(tap.SerializeToString()))


def _cut(address: bytes) -> bytes:
    kept = prefix(len(address)) // 8
    return address[:kept].ljust(len(address), b"\0")


def _masked(query: bytes, reply: bytes) -> tuple[bytes, bytes]:
    """Both messages with the client subnet cut where it is too long, as the option's length allows: zeros behind."""
    question = asked.question(query)
    try:
        opt: Any = asked.edns(query, question.tail) if question is not None else None
    except FormError:
        return query[: question.tail if question is not None else 12], reply  # nobody knows what stands behind
    ecs = opt[3] if opt is not None else None
    if ecs is None:
        return query, reply
    v6, _, _, at, length = ecs
    kept = 8 + prefix(16 if v6 else 4) // 8
    if length <= kept:
        return query, reply
    option = query[at : at + length]
    masked = option[:kept].ljust(length, b"\0")
    query = query[:at] + masked + query[at + length :]
    # The reply has it as it came but for its scope, in its last record or the last but one; nothing else begins so.
    there = reply.rfind(option[:7])
    if there >= 0 and reply[there + 8 : there + length] == option[8:]:
        reply = reply[: there + kept] + masked[kept:] + reply[there + length :]
    return query, reply
