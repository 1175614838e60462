"""The program's entry: commands, and their errors as one sentence and an exit code."""

import sys

import typer

from pipesync_cli import operations, pipelines, reconcile, rejected, sync, watching, webhooks
from pipesync_cli.app import app
from pipesync_cli.output import complain
from pipesync_rpc.channel import CannotOpenChannel
from pipesync_rpc.errors import RpcError

for room in (operations, pipelines, sync, reconcile, rejected, webhooks, watching):
    room.register(app)


def main() -> None:
    """Runs the command in ``sys.argv`` and ends the process.

    It exits 0 when the command did what it was asked, 1 when it could not, 2 when it was asked
    wrongly, and 130 when it was interrupted.
    """
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        # Outside its standalone mode typer raises what it would print, in its own form.
        result = app(standalone_mode=False)
    except typer.TyperException as error:
        complain(error.format_message())
        return error.exit_code
    except RpcError as error:
        complain(_sentence(error))
        return 1
    except (CannotOpenChannel, OSError) as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    return result if isinstance(result, int) else 0


def _sentence(error: RpcError) -> str:
    if not error.field_violations:
        return error.message
    return "; ".join(
        f"{violation.field}: {violation.description}" for violation in error.field_violations
    )


if __name__ == "__main__":
    main()
