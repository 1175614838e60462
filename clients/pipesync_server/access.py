"""Access control: principals, scopes, and the protocols that decide on them."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from google.rpc import code_pb2

from pipesync_rpc.errors import FieldViolation, RpcError
from pipesync_rpc.reasons import Reason
from pipesync_server.peer import UNKNOWN_PEER, Peer


class Scope(StrEnum):
    """A set of permissions; each scope includes those before it."""

    READ = "read"
    """Read pipelines, their runs and their events."""
    SYNC = "sync"
    """Run pipelines as they are configured."""
    ADMIN = "admin"
    """Create, change and delete pipelines, and send configurations in requests."""

    def includes(self, other: "Scope") -> bool:
        """Return whether this scope includes another."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller.

    Attributes:
        name: Name for logs; not secret.
        scope: Its permissions.
        prefix: Prefix of the ids of its pipelines; empty for all pipelines.
        token_hash: Hash of its token; empty for a token that never expires.
        certificate: Name of the certificate that it was authenticated by, as in
            ``Certificate.names``; empty when that was a token.
        certificate_expire_time: Time from which that certificate is no longer valid.
    """

    name: str
    scope: Scope
    prefix: str = ""
    token_hash: str = field(default="", repr=False)
    certificate: str = ""
    certificate_expire_time: datetime | None = None

    @property
    def credential(self) -> str:
        """Kind of its credential, for messages to it."""
        return "certificate" if self.certificate else "token"

    def may_see(self, pipeline_id: str) -> bool:
        """Return whether a pipeline with this id belongs to the caller."""
        return pipeline_id.startswith(self.prefix)


# A caller with a token of the server's settings.
OPERATOR = Principal(name="operator", scope=Scope.ADMIN)
# A caller of a server that requires no token.
ANYONE = Principal(name="anyone", scope=Scope.ADMIN)
# Names that no stored token may have.
RESERVED_NAMES = frozenset({OPERATOR.name, ANYONE.name})

# The caller of the call that the current task handles.
principal: ContextVar[Principal] = ContextVar("principal", default=ANYONE)


class PermissionDenied(RpcError):
    """The caller must present another credential, or omit fields that its own does not allow."""

    default_code = code_pb2.PERMISSION_DENIED
    default_reason = Reason.PERMISSION_DENIED


class Authenticator(Protocol):
    """Identifies callers."""

    def admit(self, authorization: str, peer: Peer = UNKNOWN_PEER) -> Principal:
        """Return the caller, identified by its token, or else by its certificate.

        Args:
            authorization: Its authorization metadata; empty if there is none.
            peer: Its connection.

        Raises:
            Unauthenticated: The server does not know the caller.
        """
        ...


class AccessPolicy(Protocol):
    """Defines the permissions that a server's methods require."""

    def scope_of(self, method: str) -> Scope:
        """Return the least scope that ``/package.Service/Method`` requires."""
        ...

    def check_request(self, caller: Principal, method: str, request: Any) -> None:
        """Check a decoded request, before any work is done for it.

        Raises:
            RpcError: The caller may call the method, but not with this request.
        """
        ...


class ScopeTable:
    """A policy that requires a scope for each method, and checks no request."""

    def __init__(self, scopes: Mapping[str, Scope]) -> None:
        """Take the scope of each ``/package.Service/Method``; others require ``admin``."""
        self._scopes = scopes

    def scope_of(self, method: str) -> Scope:
        """Return the least scope that the method requires."""
        return self._scopes.get(method, Scope.ADMIN)

    def check_request(self, caller: Principal, method: str, request: Any) -> None:
        """Allow every request."""


def require_scope(caller: Principal, scope: Scope, method: str) -> None:
    """Check that the caller may call the method.

    Raises:
        PermissionDenied: The caller's scope is too small.
    """
    if not caller.scope.includes(scope):
        raise PermissionDenied(
            f"{method.rpartition('/')[2]} requires the scope {scope}, and the"
            f" {caller.credential} {caller.name!r} has {caller.scope}"
        )


def require_scope_for_fields(caller: Principal, scope: Scope, fields: list[str]) -> None:
    """Check that the caller may set fields that require more than their method does.

    Args:
        caller: The caller.
        scope: Scope that the fields require.
        fields: Paths of the fields that the request sets; an empty list always passes.

    Raises:
        PermissionDenied: The caller's scope is too small; names every such field.
    """
    if fields and not caller.scope.includes(scope):
        raise PermissionDenied(
            f"{' and '.join(fields)} of this request require the scope {scope}, and the"
            f" {caller.credential} {caller.name!r} has {caller.scope}",
            field_violations=[
                FieldViolation(field, f"requires the scope {scope}: omit it") for field in fields
            ],
        )
