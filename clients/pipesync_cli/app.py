"""The command line's root: where the service is, and how commands reach it."""

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
    help="Keeps pipelines that bring Stripe's data into Postgres.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """Where the service is and how to speak to it."""

    target: str
    token: str | None
    tls: ClientTls | None
    proxy: str | None

    def client(self) -> PipelineClient:
        """A client, to be entered."""
        return PipelineClient(self.target, tls=self.tls, token=self.token, proxy=self.proxy)


@app.callback()
def root(
    command: typer.Context,
    service: Annotated[
        str, typer.Option(envvar="PIPESYNC_SERVICE", help="The service's address.")
    ] = "127.0.0.1:50052",
    token: Annotated[
        str | None, typer.Option(envvar="PIPESYNC_TOKEN", help="The token that it asks for.")
    ] = None,
    tls: Annotated[bool, typer.Option("--tls", help="Use TLS with the usual authorities.")] = False,
    tls_ca: Annotated[
        Path | None,
        typer.Option(envvar="PIPESYNC_TLS_CA", help="PEM file of its authority; turns TLS on."),
    ] = None,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(envvar="PIPESYNC_TLS_CERTIFICATE", help="PEM file of our own certificate."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(envvar="PIPESYNC_TLS_KEY", help="PEM file of its private key.")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            envvar="PIPESYNC_PROXY",
            help="http://host:port of a proxy that leads to the service; http_proxy and its like "
            "are not looked at.",
        ),
    ] = None,
) -> None:
    """Keeps pipelines that bring Stripe's data into Postgres."""
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
    """A client of the service that the command line names, to be entered."""
    service: Service = command.obj
    return service.client()


def awaited(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """A command that typer can call, made of a coroutine function."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(command(*args, **kwargs))

    return run
