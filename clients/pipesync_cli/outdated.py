"""The sentence about streams whose older rows lack fields that were added since."""

from collections.abc import Sequence

from pipesync.v1.state_pb2 import Eof
from pipesync_cli.output import note

# More names than that make no sentence.
_MOST_NAMES = 10


def tell_outdated(pipeline_id: str, eof: Eof | None, raw: bool) -> None:
    """Prints which streams lack fields, and what to run; nothing when none does.

    Args:
        pipeline_id: Whose.
        eof: How the last call ended; None when that is not known.
        raw: Whether results are printed as JSON, where these streams are listed.
    """
    if eof is None or raw or not eof.outdated_streams:
        return
    note(
        f"{pipeline_id}: older rows lack fields that were added since these streams were read: "
        f"{_listed(eof.outdated_streams)}. Run pipelines setup {pipeline_id}, then pipelines "
        f"reconcile {pipeline_id} (where its connectors cannot reconcile: pipelines sync_batch "
        f"{pipeline_id} --reset-state --loop 0). A continuous pipeline does both on its own."
    )


def tell_renewed(pipeline_id: str, eof: Eof | None, raw: bool) -> None:
    """Prints which streams have new fields now; nothing when none was read again for these.

    Args:
        pipeline_id: Whose.
        eof: How the last call ended; None when that is not known.
        raw: Whether results are printed as JSON, where these streams are listed.
    """
    if eof is None or raw or not eof.renewed_streams:
        return
    note(
        f"{pipeline_id}: read again, with the fields that were added: "
        f"{_listed(eof.renewed_streams)}. If setup has not run since the upgrade, pipelines setup "
        f"{pipeline_id} makes their columns."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{shown} and {more} more" if more > 0 else shown
