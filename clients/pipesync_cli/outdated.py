"""Notes on streams whose older rows lack fields that were added since."""

from collections.abc import Sequence

from pipesync.v1.state_pb2 import Eof
from pipesync_cli.output import print_note

# A sentence with more names would be unreadable.
_MAX_NAMES = 10


def report_outdated(pipeline_id: str, eof: Eof | None, raw: bool) -> None:
    """Print the streams that lack fields, and the remedy, if there are any.

    Args:
        pipeline_id: Id of the pipeline.
        eof: End of the last call; None if unknown.
        raw: Whether results are printed as JSON, which lists these streams.
    """
    if eof is None or raw or not eof.outdated_streams:
        return
    print_note(
        f"{pipeline_id}: older rows lack fields that were added since these streams were read: "
        f"{_listed(eof.outdated_streams)}. Run pipelines setup {pipeline_id}, then pipelines "
        f"reconcile {pipeline_id} (where its connectors cannot reconcile: pipelines sync_batch "
        f"{pipeline_id} --reset-state --loop 0). A continuous pipeline does both on its own."
    )


def report_renewed(pipeline_id: str, eof: Eof | None, raw: bool) -> None:
    """Print the streams that were read again for new fields, if there are any.

    Args:
        pipeline_id: Id of the pipeline.
        eof: End of the last call; None if unknown.
        raw: Whether results are printed as JSON, which lists these streams.
    """
    if eof is None or raw or not eof.renewed_streams:
        return
    print_note(
        f"{pipeline_id}: read again, with the fields that were added: "
        f"{_listed(eof.renewed_streams)}. If setup has not run since the upgrade, pipelines setup "
        f"{pipeline_id} creates their columns."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MAX_NAMES])
    more = len(names) - _MAX_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
