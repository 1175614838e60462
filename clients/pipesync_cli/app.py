"""Root of the command line: the options that locate the service, and access to it."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from pipesync_client import PipelineClient
from pipesync_rpc import context
from pipesync_rpc.credentials import ClientTls

P = ParamSpec("P")

app = typer.Typer(
    name="pipelines",
    help="Manage pipelines that sync Stripe data into Postgres.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Address and credentials of the service."""

    target: str
    token: str | None
    tls: ClientTls | None
    proxy: str | None

    def client(self) -> PipelineClient:
        """Return a client, as an async context manager."""
        return PipelineClient(self.target, tls=self.tls, token=self.token, proxy=self.proxy)


@app.callback()
def root(
    command: typer.Context,
    service: Annotated[
        str, typer.Option(envvar="PIPESYNC_SERVICE", help="Address of the service.")
    ] = "127.0.0.1:50052",
    token: Annotated[
        str | None, typer.Option(envvar="PIPESYNC_TOKEN", help="Bearer token for the service.")
    ] = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS with the default authorities.")
    ] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="PIPESYNC_TLS_CA",
            help="PEM file of the service's certificate authority; enables TLS.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(envvar="PIPESYNC_TLS_CERTIFICATE", help="PEM file of the client certificate."),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="PIPESYNC_TLS_KEY", help="PEM file of the client certificate's private key."
        ),
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            envvar="PIPESYNC_PROXY",
            help="HTTP proxy to the service, as http://host:port; http_proxy and similar variables "
            "are ignored.",
        ),
    ] = None,
) -> None:
    """Manage pipelines that sync Stripe data into Postgres."""
    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter(
            "give both or neither", param_hint=["--tls-certificate", "--tls-key"]
        )
    secured = tls or tls_ca is not None or tls_certificate is not None
    command.obj = Service(
        target=service,
        token=token,
        tls=ClientTls(ca=tls_ca, certificate=tls_certificate, private_key=tls_key)
        if secured
        else None,
        proxy=proxy or None,
    )
    context.bind(traceparent=context.new_traceparent())


def open_client(command: typer.Context) -> PipelineClient:
    """Return a client of the service in the command line, as an async context manager."""
    service: Service = command.obj
    return service.client()


def synchronous(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Return a command for typer that runs a coroutine function."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run
