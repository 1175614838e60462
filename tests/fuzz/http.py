"""HTTP: requests to every route of the service, well framed, badly framed, or no HTTP at all."""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

from hypothesis import strategies as st

from tests.fuzz.ground import Ground
from tests.fuzz.json_values import ODD_TEXTS, edited, edits
from tests.fuzz.placeholders import SIGNATURE, signed
from tests.fuzz.rpc import edited as damaged
from tests.fuzz.tables import EVENT, PAUSED, STORED, as_json
from tests.leaks import leaks

Draw = Callable[[st.SearchStrategy[Any]], Any]
# Bytes of an answer: the service's answers are short, except for the metrics.
_MOST_ANSWER = 4096
# Seconds to wait for an answer, and for the next part of it.
_FIRST_WORD, _PAUSE = 0.2, 0.03
_METHODS = (
    "GET",
    "POST",
    "HEAD",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "get",
    "É",
)
_HEADERS = (
    ("Content-Type", "application/json"),
    ("Content-Encoding", "gzip"),
    ("Accept-Encoding", "gzip, \u00ff"),
    ("Expect", "100-continue"),
    ("Expect", "\u00ff"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade, close"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip, chunked"),
    ("Content-Length", "-1"),
    ("Content-Length", "99999999999999999999"),
    ("Content-Length", "5, 5"),
    ("Stripe-Signature", "\u00e9"),
    ("Stripe-Signature", "t=99999999999999999999999,v1=00"),
    ("Stripe-Signature", "t=,v1=,v1=" + ",v1=0" * 500),
    ("Authorization", "Bearer \u00e9"),
    ("Authorization", "Basic \x01"),
    ("X-Forwarded-For", "999.1.1.1, \u00ff"),
    ("X-Request-Id", "\u00ff" * 50),
    ("X-Request-Id", "x" * 3000),
    ("Traceparent", "00-" + "0" * 32 + "-1-1"),
    ("Cookie", "a=\u00ff; =;"),
    ("Range", "bytes=9-1"),
    ("If-None-Match", '"\u00ff'),
    ("Host", ""),
    ("Host", "\u00ff:99999999"),
)
_latin = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=30)
byte_edits = st.lists(
    st.tuples(
        st.sampled_from(("flip", "flip", "cut", "drop", "twice")),
        st.integers(0, 5000),
        st.integers(0, 255),
    )
    | st.tuples(st.just("insert"), st.integers(0, 5000), _latin),
    max_size=4,
)


def attempts(routes: Sequence[tuple[str, str]]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of attempts at these routes, each a method and a path."""
    # Routes with a body have more parts that can be odd.
    weighted = [one for one in routes for _ in range(5 if one[0] == "POST" else 1)]

    @st.composite
    def made(draw: Draw) -> dict[str, Any]:
        method, path = draw(st.sampled_from(weighted))
        if draw(st.integers(0, 9)) == 9:
            method = draw(st.sampled_from(_METHODS))
        pipeline_id = draw(
            st.sampled_from(
                (STORED, STORED, STORED, PAUSED, "absent-1", "%00", "%ff", "..", "x" * 5000)
            )
            | st.sampled_from(ODD_TEXTS).map(lambda text: quote(text[:500]))
        )
        target = path.replace("{pipeline_id}", pipeline_id)
        if draw(st.integers(0, 9)) == 9:
            target += draw(st.sampled_from(("?", "?a=%ff", "/", "//", "#x", "?" + "a" * 9000)))
        headers = [["Host", "localhost"]]
        if method == "POST" and draw(st.integers(0, 3)):
            headers.append(["Stripe-Signature", SIGNATURE])
        headers += [list(draw(st.sampled_from(_HEADERS))) for _ in range(draw(st.integers(0, 2)))]
        if draw(st.integers(0, 14)) == 14:
            headers.append([draw(_latin), draw(_latin)])
        if draw(st.integers(0, 29)) == 29:
            headers += [
                [f"X-{number}", "x"] for number in range(draw(st.sampled_from((200, 5000))))
            ]
        body = draw(
            st.just(as_json(EVENT))
            | edits.map(lambda one: as_json(edited(EVENT, one)))
            | st.sampled_from(("", "\0", "[" * 50_000, '{"id": NaN}', '{"\\ud800": 1}', "\u00ff"))
            | _latin
        )
        return {
            "method": method,
            "target": target,
            "headers": headers,
            "body": body,
            "framing": draw(
                st.sampled_from(("length", "length", "length", "chunked", "none", "short", "long"))
            ),
            "edits": [list(one) for one in draw(st.just([]) | byte_edits)],
        }

    return made()


raw_attempts: st.SearchStrategy[dict[str, Any]] = st.binary(max_size=300).map(
    lambda sent: {"raw": sent.decode("latin-1")}
)


def as_sent(attempt: Mapping[str, Any]) -> bytes:
    """Return the bytes of an attempt."""
    if "raw" in attempt:
        return bytes(attempt["raw"].encode("latin-1"))
    body: bytes = attempt["body"].encode("latin-1", errors="replace")
    headers = [
        (name, signed(body) if value == SIGNATURE else value) for name, value in attempt["headers"]
    ]
    match attempt["framing"]:
        case "length":
            headers.append(("Content-Length", str(len(body))))
        case "chunked":
            headers.append(("Transfer-Encoding", "chunked"))
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        case "short":
            headers.append(("Content-Length", str(len(body) // 2)))
        case "long":
            headers.append(("Content-Length", str(len(body) + 10)))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    start = f"{attempt['method']} {attempt['target']} HTTP/1.1\r\n{head}\r\n"
    return damaged(start.encode("latin-1", errors="replace") + body, attempt["edits"])


def run(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> list[str]:
    """Send the attempt, and return the faults of the whole answer."""
    url = urlsplit(ground.service.http_address)
    answer, is_ended = exchange(str(url.hostname), int(url.port or 0), as_sent(attempt), deadline)
    faults = [] if is_ended else [f"no end of the connection: {answer[:200]!r}"]
    # At most the stand-in of a secret was sent; an answer never has a secret.
    leaks.search("an answer by HTTP", answer)
    is_metrics = b"/metrics" in as_sent(attempt)[:400]
    # Some answers name the pipeline of the request.
    most = _MOST_ANSWER + len(as_sent(attempt))
    if len(answer) > most and not is_metrics:
        faults.append(f"an answer of {len(answer)} bytes")
    if answer and not answer.startswith(b"HTTP/1."):
        faults.append(f"no HTTP: {answer[:200]!r}")
    for line in answer.split(b"\n"):
        status = line.split(b" ")[1:2] if line.startswith(b"HTTP/1.") else []
        if status and status[0] in (b"500", b"501", b"502"):
            faults.append(f"answers {line[:100]!r}")
    return faults


def exchange(
    host: str,
    port: int,
    sent: bytes,
    deadline: float,
    *,
    pause: float = _PAUSE,
    is_whole: Callable[[bytes], bool] = lambda _: False,
) -> tuple[bytes, bool]:
    """Send bytes, wait for the answer, and then half-close the connection.

    Servers cancel a call whose sender half-closes before they have answered.

    Args:
        host: Host of the server.
        port: Port of the server.
        sent: The bytes.
        deadline: How long the server may take to end the connection, in seconds.
        pause: Time without a further byte after which the answer counts as whole, in seconds.
        is_whole: Returns whether the answer is whole before the pause is over.

    Returns:
        The answer, and whether the server ended the connection in time.
    """
    received = b""
    with socket.create_connection((host, port), timeout=deadline) as connection:
        try:
            connection.sendall(sent)
            connection.settimeout(_FIRST_WORD)
            while not is_whole(received) and (data := connection.recv(65536)):
                received += data
                connection.settimeout(pause)
        except TimeoutError:
            pass
        except OSError:
            return received, True
        try:
            connection.settimeout(deadline)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(65536):
                received += data
        except TimeoutError:
            return received, False
        except OSError:
            pass
        return received, True
