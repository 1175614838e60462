"""Entry point of the program: runs a command, and reports its errors and exit code."""

import sys

import typer

from pipesync_cli import (
    operations,
    pipelines,
    reconcile,
    rejected,
    removal,
    sync,
    watching,
    webhooks,
)
from pipesync_cli.app import app
from pipesync_cli.output import print_error
from pipesync_rpc.channel import CannotOpenChannel
from pipesync_rpc.errors import RpcError

for module in (operations, pipelines, removal, sync, reconcile, rejected, webhooks, watching):
    module.register(app)


def main() -> None:
    """Run the command in ``sys.argv`` and exit.

    Exit codes: 0 for success, 1 for a failure, 2 for a usage error, and 130 for an interrupt.
    """
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        # With standalone_mode, typer would print its errors in its own form.
        result = app(standalone_mode=False)
    except typer.TyperException as error:
        print_error(error.format_message())
        return error.exit_code
    except RpcError as error:
        print_error(_sentence(error))
        return 1
    except (CannotOpenChannel, OSError) as error:
        print_error(str(error))
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
