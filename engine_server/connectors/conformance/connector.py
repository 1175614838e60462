"""The rules for both sides: how a connector describes itself, is configured, checked and set up."""

import socket
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.conformance.leftovers import nothing_left_behind
from engine_server.connectors.conformance.subject import (
    CONFIG_PATH,
    Config,
    ConnectorSubject,
    parsed,
)
from engine_server.connectors.protocols import Messages, SelectedStream
from engine_server.errors import InvalidRequest
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus


class ConnectorConformance(ABC):
    """What sources and destinations have in common."""

    # For those who run pytest-asyncio in its strict mode.
    pytestmark = pytest.mark.asyncio

    @abstractmethod
    async def selected(self, subject: Any) -> list[SelectedStream]:
        """The streams that the tests are about."""

    async def test_its_spec_holds_valid_schemas(self, subject: Any) -> None:
        spec = subject.connector.spec()
        assert spec.HasField("config_schema"), "the spec needs a config_schema"
        for schema in (spec.config_schema, spec.stream_state_schema, spec.source_input_schema):
            assert_valid_schema(schema)

    async def test_its_spec_stays_the_same_and_needs_no_network(self, subject: Any) -> None:
        first = subject.connector.spec()
        with pytest.MonkeyPatch.context() as patch:
            for call in ("connect", "connect_ex"):
                patch.setattr(socket.socket, call, _no_network)
            patch.setattr(socket, "getaddrinfo", _no_network)
            assert subject.connector.spec() == first, "the spec changed between two calls"
            # As the engine makes it.
            another = type(subject.connector)()
            assert another.spec() == first, "the spec differs between two objects"

    async def test_its_secrets_are_marked_write_only(self, subject: Any) -> None:
        schema = MessageToDict(subject.connector.spec().config_schema)
        marked = {
            name
            for name, declared in schema.get("properties", {}).items()
            if _is_write_only(schema, declared)
        }
        assert marked == subject.secrets, "a secret is a pydantic.SecretStr"

    async def test_its_good_configurations_are_taken_and_show_no_secret(self, subject: Any) -> None:
        for config in (subject.config, subject.unreachable):
            shown = parsed(subject.connector, config)
            assert_no_secret(subject, config, repr(shown) + str(shown))

    async def test_a_bad_configuration_is_refused_by_field(self, subject: Any) -> None:
        assert subject.bad_configs, "give a bad configuration for each field that can be wrong"
        for field, config in subject.bad_configs.items():
            assert _bad_fields(subject, config) == {f"{CONFIG_PATH}.{field}"}, field

    async def test_an_unknown_field_is_refused_by_name(self, subject: Any) -> None:
        config = {**subject.config, "no_such_field": 1}
        assert _bad_fields(subject, config) == {f"{CONFIG_PATH}.no_such_field"}

    async def test_a_required_field_is_missed_by_name(self, subject: Any) -> None:
        schema = MessageToDict(subject.connector.spec().config_schema)
        for field in schema.get("required", []):
            config = {name: value for name, value in subject.config.items() if name != field}
            assert f"{CONFIG_PATH}.{field}" in _bad_fields(subject, config)

    async def test_a_check_of_a_good_configuration_succeeds(self, subject: Any) -> None:
        status = await self._check(subject, subject.config)
        assert status.status == ConnectionStatus.STATUS_SUCCEEDED, status.message

    async def test_a_check_that_cannot_connect_fails_in_words(self, subject: Any) -> None:
        status = await self._check(subject, subject.unreachable)
        assert status.status == ConnectionStatus.STATUS_FAILED
        assert status.message, "say why it failed"

    async def test_setup_and_teardown_can_be_repeated(self, subject: Any) -> None:
        config = parsed(subject.connector, subject.config)
        streams = await self.selected(subject)
        for operation in ("setup", "setup", "teardown", "teardown", "setup"):
            call = getattr(subject.connector, operation)
            async with nothing_left_behind():
                for message in await listed(call(config, streams)):
                    kind = message.WhichOneof("payload")
                    assert kind in ("log", "control"), f"{operation} yields no {kind}"
                    self._assert_control_is_valid(subject, message)

    def _assert_control_is_valid(self, subject: Any, message: Message) -> None:
        if message.HasField("control"):
            changed = getattr(message.control, message.control.WhichOneof("config") or "")
            parsed(subject.connector, MessageToDict(changed))

    async def _check(self, subject: Any, config: Config) -> ConnectionStatus:
        """The one connection_status of a check, which may come after logs and comes last."""
        streams = await self.selected(subject)
        async with nothing_left_behind():
            checked = parsed(subject.connector, config)
            *logs, last = await listed(subject.connector.check(checked, streams))
        assert all(message.HasField("log") for message in logs), "one status, after logs if any"
        assert last.HasField("connection_status"), "a check ends with its connection_status"
        assert_no_secret(subject, config, *map(str, logs), last.connection_status.message)
        return last.connection_status


async def listed(messages: Messages) -> list[Message]:
    """All messages of a call."""
    async with aclosing(messages):
        return [message async for message in messages]


def assert_valid_schema(schema: Struct) -> None:
    """Fails unless it is a JSON Schema (2020-12)."""
    jsonschema.Draft202012Validator.check_schema(MessageToDict(schema))


def assert_no_secret(subject: ConnectorSubject, config: Config, *texts: str) -> None:
    """Fails when a text holds a secret of the configuration, or the password of a secret URL."""
    for name in subject.secrets & config.keys():
        secret = str(config[name])
        hidden = {secret, urlsplit(secret).password or secret}
        told = any(one in text for one in hidden for text in texts)
        assert not told, f"the secret of {name} was told"


def _bad_fields(subject: Any, config: Config) -> set[str]:
    with pytest.raises(InvalidRequest) as caught:
        parsed(subject.connector, config)
    assert_no_secret(subject, config, str(caught.value))
    return {violation.field for violation in caught.value.field_violations}


def _is_write_only(root: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    return any(node.get("writeOnly") is True for node in _nodes(root, declared))


def _nodes(root: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A property's schema, and those that it refers to or chooses from."""
    yield node
    reference = str(node.get("$ref", ""))
    if reference.startswith("#/$defs/"):
        yield from _nodes(root, root["$defs"][reference.removeprefix("#/$defs/")])
    for keyword in ("anyOf", "oneOf", "allOf"):
        for option in node.get(keyword, ()):
            yield from _nodes(root, option)


def _no_network(*_: object) -> None:
    raise AssertionError("a spec needs no network")
