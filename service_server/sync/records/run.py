"""Run of a sync, as the history of runs and the pipeline's status show it."""

import structlog

from pipesync.v1.pipeline_service_pb2 import PipelineStatus, Run
from pipesync.v1.progress_pb2 import Progress, RunStatus, StreamProgress
from pipesync.v1.state_pb2 import Eof, SyncState
from service_server.store import pipelines, runs
from service_server.store.database import Connection
from service_server.store.held_rejected import describe_held

_log = structlog.get_logger(__name__)

# Names of streams that one log line lists.
_MOST_NAMES = 10

_PIPELINE_STATUS = {
    RunStatus.RUN_STATUS_UNSPECIFIED: PipelineStatus.PIPELINE_STATUS_BACKFILL,
    RunStatus.RUN_STATUS_STARTED: PipelineStatus.PIPELINE_STATUS_BACKFILL,
    RunStatus.RUN_STATUS_SUCCEEDED: PipelineStatus.PIPELINE_STATUS_READY,
    RunStatus.RUN_STATUS_FAILED: PipelineStatus.PIPELINE_STATUS_ERROR,
}


class RecordedRun:
    """The run that a call begins or continues."""

    def __init__(self, pipeline_id: str, run_id: str, state: SyncState) -> None:
        """Initialize for a call that is about to be made.

        Args:
            pipeline_id: The pipeline.
            run_id: The id of the run.
            state: The state that the call starts from, with the progress of a run that it
                continues.
        """
        self._run = Run(run_id=run_id, pipeline_id=pipeline_id, status=RunStatus.RUN_STATUS_STARTED)
        self._run.start_time.GetCurrentTime()
        if state.sync_run.run_id == run_id:
            self._run.progress.CopyFrom(state.sync_run.progress)

    @property
    def progress(self) -> Progress:
        """The latest progress."""
        return self._run.progress

    @property
    def is_failed(self) -> bool:
        """Whether the run has failed."""
        return self._run.status == RunStatus.RUN_STATUS_FAILED

    def take_progress(self, progress: Progress) -> None:
        """Record the progress of the run."""
        self._run.progress.CopyFrom(progress)

    def fail(self, reason: str) -> None:
        """Record that the engine failed without an eof."""
        self._run.status = RunStatus.RUN_STATUS_FAILED
        self._run.failure_message = reason
        self._run.end_time.GetCurrentTime()

    def finish(self, eof: Eof) -> None:
        """Record the end of the call."""
        if eof.outdated_streams:
            outdated = eof.outdated_streams
            _log.warning("streams_outdated", count=len(outdated), streams=outdated[:_MOST_NAMES])
        self._run.status = eof.status
        self._run.progress.CopyFrom(eof.run_progress)
        self._run.failure_message = failure_of(eof)
        if eof.status != RunStatus.RUN_STATUS_STARTED:
            self._run.end_time.GetCurrentTime()

    async def store(self, connection: Connection) -> None:
        """Store the run."""
        await runs.put(connection, self._run)

    async def store_status(self, connection: Connection, eof: Eof | None) -> None:
        """Store the pipeline's status after the call, unless the pipeline is continuous.

        Args:
            connection: Connection with an open transaction.
            eof: The end of the call; None before.
        """
        message = self._run.failure_message
        if eof is not None:
            message = message or describe_held(eof.held_rejected_record_count)
        status = _PIPELINE_STATUS[self._run.status]
        await pipelines.set_status_after_sync(connection, self._run.pipeline_id, status, message)


def failure_of(eof: Eof) -> str:
    """Return why a run failed, in one sentence; empty if it did not fail."""
    if eof.status != RunStatus.RUN_STATUS_FAILED:
        return ""
    errors = [
        f"{name}: {stream.message}"
        for name, stream in sorted(eof.run_progress.streams.items())
        if stream.status == StreamProgress.STATUS_ERRORED
    ]
    return eof.failure_message or eof.run_progress.connection_status.message or "; ".join(errors)
