"""What is pushed into a sync, looked at before anything is done with it."""

from collections.abc import Sequence

from engine_server.connectors.protocols import InputChecker
from engine_server.errors import (
    InputsNotSupported,
    InputsUnverified,
    InvalidRequest,
    SettingMissing,
)
from engine_server.pipeline import ResolvedSource
from pipesync.v1.message_pb2 import SourceInput
from pipesync_rpc.errors import FieldViolation


def check_inputs(source: ResolvedSource, inputs: Sequence[SourceInput]) -> None:
    """Passes when the source takes every input; their path in the request is ``inputs``.

    Raises:
        InputsNotSupported: The source takes none.
        InputsUnverified: names every bad input; of one of them at least, nobody knows whose it is.
        InvalidRequest: names every bad input.
        SettingMissing: The source's configuration does not say what they are checked against.
    """
    if not inputs:
        return
    if not source.connector.spec().HasField("source_input_schema"):
        raise InputsNotSupported(f"the source {source.type!r} takes no inputs")
    if not isinstance(source.connector, InputChecker):
        return
    try:
        faults = source.connector.check_inputs(source.config, inputs)
    except SettingMissing as error:
        raise error.under("pipeline.source.config") from None
    violations = [
        FieldViolation(f"inputs[{fault.number}].{fault.field}".rstrip("."), fault.description)
        for fault in faults
    ]
    refused = InvalidRequest(violations)
    if any(fault.is_unverified for fault in faults):
        raise InputsUnverified(refused.message, field_violations=violations)
    if violations:
        raise refused
