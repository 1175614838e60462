"""Calls of the stage ``reduce`` with defaults, for its tests."""

from collections.abc import Sequence

from engine_server.stages.ending import Ending
from engine_server.stages.reduce import reduce
from pipesync.v1.message_pb2 import Message
from pipesync.v1.state_pb2 import Eof, SyncState
from tests.engine_server.stages.sequences import gathered, given

SECOND = 1_000_000_000


class Clock:
    """Clock in Unix nanoseconds that a test advances."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


def new_run(run_id: str = "r1") -> SyncState:
    state = SyncState()
    state.sync_run.run_id = run_id
    state.sync_run.time_ceiling.seconds = 1_700_000_000
    return state


def at(clock: Clock, message: Message) -> Message:
    """Return the message with the clock's time."""
    message.ts.FromNanoseconds(clock())
    return message


async def reduced(
    *messages: Message,
    streams: Sequence[str] = ("a", "b"),
    state: SyncState | None = None,
    ending: Ending | None = None,
    beside_run: bool = False,
    caller_keeps_events: bool = False,
) -> list[Message]:
    return await gathered(
        reduce(
            given(*messages),
            state=new_run() if state is None else state,
            streams=streams,
            ending=Ending() if ending is None else ending,
            beside_run=beside_run,
            caller_keeps_events=caller_keeps_events,
        )
    )


async def eof_of(*messages: Message, **arguments: object) -> Eof:
    return (await reduced(*messages, **arguments))[-1].eof  # type: ignore[arg-type]  # as reduced has them


def kinds(messages: Sequence[Message]) -> list[str | None]:
    return [message.WhichOneof("payload") for message in messages]
