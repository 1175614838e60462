"""HTTP/2 that no gRPC library sends: broken frames, and headers that gRPC does not allow."""

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.http import byte_edits, exchange
from tests.fuzz.requests import plain
from tests.fuzz.rpc import edited

Draw = Callable[[st.SearchStrategy[Any]], Any]
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types of frames and their flags: https://www.rfc-editor.org/rfc/rfc9113#section-6
_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
# Seconds: settings arrive at once, and the answer of a call after some work.
_PAUSE = 0.4
_END_STREAM, _END_HEADERS = 1, 4

_latin = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=20)
_headers = st.sampled_from(
    (
        ("authorization", "Bearer \u00e9"),
        ("authorization", "Bearer " + "x" * 5000),
        ("authorization", "\x00"),
        ("x-request-id", "\u00ff" * 40),
        ("x-request-id", "x" * 3000),
        ("x-key-bin", "!!!"),
        ("x-key-bin", "AA=="),
        ("grpc-timeout", "-1S"),
        ("grpc-timeout", "99999999999H"),
        ("grpc-timeout", "0n"),
        ("grpc-encoding", "gzip"),
        ("grpc-encoding", "none-such"),
        ("content-type", "text/html"),
        ("traceparent", "\u00e9"),
        ("X-Upper", "x"),
        (":path", "/twice"),
        ("", "x"),
    )
) | st.tuples(_latin, _latin)


@st.composite
def attempts(draw: Draw) -> dict[str, Any]:
    """Draw connections of a preface, one call and further frames."""
    method = draw(st.sampled_from(list(METHODS)))
    return {
        "method": method,
        "headers": [list(draw(_headers)) for _ in range(draw(st.integers(0, 3)))],
        "data": draw(
            st.sampled_from((None, None))
            | st.just(None)
            | st.binary(max_size=60).map(lambda data: data.decode("latin-1"))
            # Compressed, or of another length than the prefix declares.
            | st.sampled_from(("\x01\0\0\0\x01x", "\0\xff\xff\xff\xff", "\0\0\0\0\x05ab", "\x07"))
        ),
        "more": [
            [
                draw(st.integers(0, 12)),
                draw(st.integers(0, 255)),
                draw(st.integers(0, 5)),
                draw(_latin),
            ]
            for _ in range(max(0, draw(st.integers(-4, 3))))
        ],
        "edits": [list(one) for one in draw(st.just([]) | st.just([]) | byte_edits)],
    }


def run(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> list[str]:
    """Send the frames. The log is checked for the answers' codes; here only that they end."""
    method = METHODS[attempt["method"]]
    sent = ground.prepare(plain(method.input_type))
    data = attempt["data"]
    body = b"\0" + len(sent).to_bytes(4, "big") + sent if data is None else data.encode("latin-1")
    head = b"".join(
        _literal(name, value)
        for name, value in (
            (":method", "POST"),
            (":scheme", "http"),
            (":path", attempt["method"]),
            (":authority", "localhost"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *map(tuple, attempt["headers"]),
        )
    )
    stream = (
        _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, head)
        + b"".join(
            _frame(kind, flags, number, payload.encode("latin-1"))
            for kind, flags, number, payload in attempt["more"]
        )
        + _frame(_DATA, _END_STREAM, 1, body)
    )
    address = (
        ground.engine_address
        if method.containing_service.name == "EngineService"
        else ground.service.address
    )
    host, _, port = address.rpartition(":")
    connection = _PREFACE + edited(stream, attempt["edits"])
    _, is_ended = exchange(host, int(port), connection, deadline, pause=_PAUSE, is_whole=_is_whole)
    return [] if is_ended else ["no end of the connection"]


def _is_whole(received: bytes) -> bool:
    """Return whether an answer has ended or was aborted."""
    while len(received) >= 9:
        kind, flags = received[3], received[4]
        if kind in (_RESET, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            return True
        received = received[9 + int.from_bytes(received[:3], "big") :]
    return False


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    payload = payload[:16_384]
    return (
        len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
    )


def _literal(name: str, value: str) -> bytes:
    """Return a header field that is not indexed.

    See https://www.rfc-editor.org/rfc/rfc7541#section-6.2.2.
    """
    return b"\0" + _text(name.encode("latin-1")) + _text(value.encode("latin-1"))


def _text(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes([len(text)]) + text
    length, encoded = len(text) - 127, b"\x7f"
    while length >= 128:
        encoded += bytes([length % 128 + 128])
        length //= 128
    return encoded + bytes([length]) + text
