"""The reasons that programs branch on are all in one place."""

from collections.abc import Iterator

import engine_server.errors
import pipesync_rpc.tokens
import service_server.errors
from pipesync_rpc.errors import RpcError
from pipesync_rpc.reasons import Reason

ERRORS = (engine_server.errors, pipesync_rpc.tokens, service_server.errors)


def every_error() -> Iterator[type[RpcError]]:
    for module in ERRORS:
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, RpcError):
                yield value


def test_every_error_bears_a_listed_reason() -> None:
    assert {type(error.default_reason) for error in every_error()} == {Reason}


def test_every_reason_of_a_server_is_raised_by_an_error_of_its_own() -> None:
    raised = {error.default_reason for error in every_error()}
    # Made where a call ends, by no class of their own.
    assert set(Reason) - raised == {Reason.INTERNAL, Reason.UNIMPLEMENTED, Reason.CANCELLED}
