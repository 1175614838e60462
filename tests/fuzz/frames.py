"""Frames of the Stripe CLI's WebSocket to a sync that follows it."""

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from aiohttp import WSMsgType
from google.protobuf import message_factory
from hypothesis import strategies as st

from pipesync.v1 import engine_service_pb2 as engine_pb
from tests.fuzz import rpc
from tests.fuzz.ground import METHODS, Ground
from tests.fuzz.json_values import edited, edits
from tests.fuzz.placeholders import SIGNATURE
from tests.fuzz.requests import plain
from tests.fuzz.tables import EVENT
from tests.stripe_simulator.signatures import signature_header

Draw = Callable[[st.SearchStrategy[Any]], Any]
_METHOD = "/pipesync.v1.EngineService/PipelineSync"
_FRAME = {
    "type": "webhook_event",
    "endpoint": {"api_version": None},
    "event_payload": None,
    "http_headers": {"Stripe-Signature": SIGNATURE},
    "webhook_conversation_id": "wc_1",
    "webhook_id": "wh_1",
}
_THIN = {
    "type": "v2_event",
    "destination_id": "ed_1",
    "http_headers": {"Stripe-Signature": SIGNATURE},
    "payload": None,
}


@st.composite
def attempts(draw: Draw) -> dict[str, Any]:
    """Draw some frames."""
    return {"frames": [draw(_frames()) for _ in range(draw(st.integers(1, 3)))]}


@st.composite
def _frames(draw: Draw) -> dict[str, Any]:
    match draw(st.integers(0, 9)):
        case 0:
            return {"kind": "binary", "data": draw(st.binary(max_size=40)).decode("latin-1")}
        case 1:
            return {
                "kind": draw(st.sampled_from(("ping", "pong"))),
                "data": "x" * draw(st.integers(0, 125)),
            }
        case 2:
            code = draw(st.sampled_from((1000, 1001, 1006, 1011, 4000, 999)))
            return {"kind": "close", "data": "\u00e9" * 20, "code": code}
        case 3:
            # Invalid frames: https://www.rfc-editor.org/rfc/rfc6455#section-5.2
            return {
                "kind": "raw",
                "data": draw(
                    st.binary(min_size=1, max_size=30).map(lambda data: data.decode("latin-1"))
                    | st.sampled_from(
                        ("\x81\x02\xff\xfe", "\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff")
                    )
                ),
            }
        case 4:
            text = st.sampled_from(
                ("", "null", "[]", "{", "[" * 50_000, "\0", '"\\ud800"', "9" * 5000)
            )
            return {"kind": "text", "data": draw(text)}
        case _:
            return {
                "kind": "event",
                "thin": draw(st.integers(0, 4)) == 4,
                "event": edited(EVENT, draw(st.just([]) | edits)),
                "edits": [list(one) for one in draw(st.just([]) | edits)],
            }


class Following:
    """An open sync and its result.

    Attributes:
        faults: Faults of its end.
        is_ended: Set at its end.
    """

    def __init__(self, ground: Ground) -> None:
        self.faults: list[str] = []
        self.is_ended = threading.Event()
        request: Any = plain(METHODS[_METHOD].input_type)
        request.pipeline.source.config["websocket"] = True
        channel = ground.channels["pipesync.v1.EngineService"]
        call: Any = channel.stream_stream(_METHOD)
        self._answers: Any = call(iter([ground.prepare(request)]), timeout=900)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the sync."""
        self._answers.cancel()
        self._thread.join(30)

    def _follow(self) -> None:
        try:
            for sent in self._answers:
                answer = message_factory.GetMessageClass(METHODS[_METHOD].output_type)()
                answer.ParseFromString(sent)
                assert isinstance(answer, engine_pb.PipelineSyncResponse)
        except grpc.RpcError as error:
            code = error.code()
            if code is not grpc.StatusCode.CANCELLED:
                self.faults += rpc.faults_of(error, METHODS[_METHOD])
        finally:
            self.is_ended.set()


_following: dict[Ground, Following] = {}


def run(ground: Ground, attempt: Mapping[str, Any], deadline: float) -> list[str]:
    """Send the frames to an open sync, which must go on or end with an error."""
    following = _following.get(ground)
    if following is None or following.is_ended.is_set():
        ground.stripe.run(_expire(ground))
        following = _following[ground] = Following(ground)
        ground.on_close.append(following.close)
        ground.stripe.run(_connected(ground, deadline))
    try:
        ground.stripe.run(_send(ground, attempt["frames"]))
        is_settled = ground.stripe.run(_settled(ground, following, deadline), timeout=200)
    except TimeoutError:
        is_settled = False
    faults, following.faults = following.faults, []
    if not is_settled:
        faults.append("it does not end, and nothing more is acknowledged")
        following.close()
    return faults


async def _expire(ground: Ground) -> None:
    ground.simulator.cli_sockets.expire()


async def _connected(ground: Ground, deadline: float) -> None:
    async with asyncio.timeout(deadline):
        await ground.simulator.cli_sockets.connected()


async def _send(ground: Ground, frames: list[Any]) -> None:
    for frame in frames:
        for connection in list(ground.simulator.cli_sockets._connections.values()):
            socket = connection.socket
            try:
                await _send_one(ground, connection, socket, frame)
            except (ConnectionError, RuntimeError):
                continue


async def _send_one(ground: Ground, connection: Any, socket: Any, frame: Any) -> None:
    data = frame.get("data", "").encode("latin-1", errors="replace")
    match frame["kind"]:
        case "binary":
            await socket.send_bytes(data)
        case "ping":
            await socket.ping(data)
        case "pong":
            await socket.pong(data)
        case "close":
            await socket.send_frame(frame["code"].to_bytes(2, "big") + data, WSMsgType.CLOSE)
        case "raw":
            if connection.request.transport is not None:
                connection.request.transport.write(data)
        case "text":
            await socket.send_str(frame["data"])
        case _:
            await socket.send_str(_event(ground, frame))


def _event(ground: Ground, frame: Any) -> str:
    payload = json.dumps(frame["event"])
    secret = ground.simulator.cli_sessions.made[-1].secret
    signature = signature_header(payload.encode(), secret)
    base = {**_THIN, "payload": payload} if frame["thin"] else {**_FRAME, "event_payload": payload}
    made = json.dumps(edited(base, frame["edits"]))
    return made.replace(SIGNATURE, signature)


async def _settled(ground: Ground, following: Following, deadline: float) -> bool:
    """Return whether a further event is acknowledged, or the sync ends, in time."""
    ground.simulator.create("customers")
    loop = asyncio.get_running_loop()
    until = loop.time() + deadline
    while loop.time() < until:
        if following.is_ended.is_set():
            return True
        try:
            async with asyncio.timeout(0.2):
                await ground.simulator.cli_sessions.last_settled()
        except TimeoutError:
            continue
        return True
    return False
