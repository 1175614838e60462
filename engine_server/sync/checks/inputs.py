"""Validation of the inputs that are pushed into a sync."""

import asyncio
from collections.abc import Sequence

from engine_server.connectors.protocols import InputChecker
from engine_server.errors import (
    InputsNotSupported,
    InputsUnverified,
    InvalidRequest,
    SettingMissing,
)
from engine_server.sync.checks.resolution import ResolvedSource
from pipesync.v1.message_pb2 import SourceInput
from pipesync_rpc.errors import FieldViolation


async def check_inputs(source: ResolvedSource, inputs: Sequence[SourceInput]) -> None:
    """Check that the source accepts every input; their path in the request is ``inputs``.

    Raises:
        InputsNotSupported: The source accepts no inputs.
        InputsUnverified: The sender of an input could not be verified; the error names every
            invalid input.
        InvalidRequest: An input is invalid; the error names every invalid input.
        SettingMissing: The configuration lacks the setting that inputs are verified with.
    """
    if not inputs:
        return
    if not source.connector.spec().HasField("source_input_schema"):
        raise InputsNotSupported(f"the source {source.type!r} takes no inputs")
    if not isinstance(source.connector, InputChecker):
        return
    violations: list[FieldViolation] = []
    is_unverified = False
    for number, pushed in enumerate(inputs):
        # Checked one by one, so that other requests can run in between.
        await asyncio.sleep(0)
        try:
            faults = source.connector.check_inputs(source.config, [pushed])
        except SettingMissing as error:
            raise error.under("pipeline.source.config") from None
        for fault in faults:
            place = f"inputs[{number}].{fault.field}".rstrip(".")
            violations.append(FieldViolation(place, fault.description))
            is_unverified |= fault.is_unverified
    refused = InvalidRequest(violations)
    if is_unverified:
        raise InputsUnverified(refused.message, field_violations=violations)
    if violations:
        raise refused
