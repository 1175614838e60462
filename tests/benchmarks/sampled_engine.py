"""Engine that is sampled at intervals while it uses the processor for a sync.

``python -m tests.benchmarks.sampled_engine`` takes the engine's arguments. After PipelineSyncBatch,
it writes ``Samples`` into the file that ``PIPESYNC_SAMPLES`` names.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FrameType

from engine_server.__main__ import main
from engine_server.servicer import Context, EngineServicer
from pipesync.v1.engine_service_pb2 import PipelineSyncBatchRequest, PipelineSyncBatchResponse

# Of processor time. The kernel may take more, but not less.
_SECONDS_A_SAMPLE = 0.001
SAMPLES_VARIABLE = "PIPESYNC_SAMPLES"
_ENGINE = f"{os.sep}engine_server{os.sep}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of one sync.

    Attributes:
        user_seconds: Processor time of the whole process outside the kernel.
        system_seconds: Processor time in the kernel, mainly for sockets.
        counts: Name of the function that ran, name of the engine's own function that it ran for,
            and number of samples. A function written in C counts as its caller: a signal is handled
            only once the C function has returned.
    """

    user_seconds: float
    system_seconds: float
    counts: list[tuple[str, str, int]]


class Sampler:
    """Samples the running function."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[CodeType, CodeType]] = Counter()

    def start(self) -> None:
        """Start sampling."""
        self._before = os.times()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, _SECONDS_A_SAMPLE, _SECONDS_A_SAMPLE)

    def stop(self) -> Samples:
        """Stop sampling and return the samples."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        after = os.times()
        return Samples(
            user_seconds=after.user - self._before.user,
            system_seconds=after.system - self._before.system,
            counts=[(_name(code), _name(own), count) for (code, own), count in self._seen.items()],
        )

    def _look(self, _signal: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        own: FrameType | None = frame
        while own is not None and _ENGINE not in own.f_code.co_filename:
            own = own.f_back
        self._seen[frame.f_code, (own or frame).f_code] += 1


def _name(code: CodeType) -> str:
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.stem}.{code.co_qualname}"


def _sample_syncs() -> None:
    sync_batch = EngineServicer.PipelineSyncBatch

    async def sampled(
        servicer: EngineServicer, request: PipelineSyncBatchRequest, context: Context
    ) -> PipelineSyncBatchResponse:
        sampler = Sampler()
        sampler.start()
        try:
            return await sync_batch(servicer, request, context)
        finally:
            samples = json.dumps(asdict(sampler.stop()))
            await asyncio.to_thread(Path(os.environ[SAMPLES_VARIABLE]).write_text, samples)

    EngineServicer.PipelineSyncBatch = sampled  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    _sample_syncs()
    main()
