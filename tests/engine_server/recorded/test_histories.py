"""Syncs repair the destination after any history of crashes and damage."""

from dataclasses import dataclass
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pipesync.v1.state_pb2 import SyncState
from tests.engine_server.recorded.account import account
from tests.engine_server.recorded.database import Database
from tests.engine_server.recorded.histories import (
    CUT_COMPARISON,
    HISTORIES,
    RESTORED_BEFORE_BEGUN,
    STREAMS,
)
from tests.engine_server.recorded.pipeline import Pipeline, pipeline_of


@dataclass(kw_only=True)
class History:
    """State machine of one pipeline."""

    pipeline: Pipeline
    state: SyncState
    dumps: list[Database]
    copies: list[SyncState]

    async def step(self, name: str, *of: Any) -> None:
        await getattr(self, f"_{name}")(*of)

    async def _create(self, stream: str) -> None:
        self.pipeline.account.create(stream)

    async def _update(self, stream: str, place: int, value: str) -> None:
        self.pipeline.account.update(stream, place, value)

    async def _delete(self, stream: str, place: int) -> None:
        self.pipeline.account.delete(stream, place)

    async def _sync(self, limit: int, run_id: str) -> None:
        eof = await self.pipeline.sync(state=self.state, state_limit=limit, run_id=run_id)
        assert not eof.failure_message
        self.state = eof.ending_state

    async def _follow(self, limit: int) -> None:
        """Sync only events, if there is a checkpoint to resume from."""
        eof = await self.pipeline.sync(state=self.state, state_limit=limit, events_only=True)
        assert not eof.failure_message
        self.state = eof.ending_state

    async def _crash(self, count: int, stores: bool, run_id: str) -> None:
        stored = await self.pipeline.leave(self.state, count, run_id=run_id)
        if stores:
            self.state = stored

    async def _reset(self) -> None:
        self.state = SyncState()

    async def _drop(self, stream: str) -> None:
        self.pipeline.database.drop(stream)

    async def _truncate(self, stream: str) -> None:
        self.pipeline.database.truncate(stream)

    async def _dump(self) -> None:
        self.dumps.append(self.pipeline.database.dump())

    async def _restore(self, place: int) -> None:
        if self.dumps:
            self.pipeline.database.restore(self.dumps[place % len(self.dumps)])

    async def _copy(self) -> None:
        copy = SyncState()
        copy.CopyFrom(self.state)
        self.copies.append(copy)

    async def _roll_back(self, place: int) -> None:
        if self.copies:
            self.state = self.copies[place % len(self.copies)]


@example(steps=RESTORED_BEFORE_BEGUN, commit_every=1)
@example(steps=CUT_COMPARISON, commit_every=1)
@example(steps=[*CUT_COMPARISON, ("dump",), ("sync", 0, "run"), ("restore", 0)], commit_every=1)
@example(steps=[*CUT_COMPARISON, ("copy",), ("drop", "a"), ("roll_back", 0)], commit_every=2)
@given(steps=HISTORIES, commit_every=st.integers(min_value=1, max_value=6))
async def test_any_interrupted_history_converges_to_the_account(
    steps: list[tuple[Any, ...]], commit_every: int
) -> None:
    with pipeline_of(account(STREAMS)) as pipeline:
        pipeline.destination.commit_every = commit_every
        history = History(pipeline=pipeline, state=SyncState(), dumps=[], copies=[])
        for step in [("create", "a"), ("create", "b"), *steps]:
            await history.step(*step)
        eof = await pipeline.sync_to_the_end(history.state, run_id="last", state_limit=3)
        assert not eof.failure_message
        assert pipeline.tables() == pipeline.expected()
