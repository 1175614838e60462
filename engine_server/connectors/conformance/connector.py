"""Conformance tests for sources and destinations: spec, configuration, check and setup."""

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
from engine_server.connectors.protocols import Messages, SelectedStream, TeardownPlanner
from engine_server.errors import InvalidRequest
from pipesync.v1.message_pb2 import Message
from pipesync.v1.progress_pb2 import ConnectionStatus


class ConnectorConformance(ABC):
    """Rules for sources and destinations alike."""

    # Needed in pytest-asyncio's strict mode.
    pytestmark = pytest.mark.asyncio

    @abstractmethod
    async def selected(self, subject: Any) -> list[SelectedStream]:
        """Return the streams that the tests use."""

    async def test_spec_contains_valid_schemas(self, subject: Any) -> None:
        spec = subject.connector.spec()
        assert spec.HasField("config_schema"), "the spec needs a config_schema"
        for schema in (spec.config_schema, spec.stream_state_schema, spec.source_input_schema):
            assert_valid_schema(schema)

    async def test_spec_is_constant_and_needs_no_network(self, subject: Any) -> None:
        first = subject.connector.spec()
        with pytest.MonkeyPatch.context() as patch:
            for call in ("connect", "connect_ex"):
                patch.setattr(socket.socket, call, _no_network)
            patch.setattr(socket, "getaddrinfo", _no_network)
            assert subject.connector.spec() == first, "the spec changed between two calls"
            # The engine creates connectors without arguments.
            another = type(subject.connector)()
            assert another.spec() == first, "the spec differs between two objects"

    async def test_secrets_are_marked_write_only(self, subject: Any) -> None:
        schema = MessageToDict(subject.connector.spec().config_schema)
        marked = {
            name
            for name, declared in schema.get("properties", {}).items()
            if _is_write_only(schema, declared)
        }
        assert marked == subject.secrets, "a secret is a pydantic.SecretStr"

    async def test_sent_to_names_existing_fields(self, subject: Any) -> None:
        schema = MessageToDict(subject.connector.spec().config_schema)
        known = schema.get("properties", {}).keys()
        for names in _values_of("sentTo", schema):
            assert isinstance(names, list), "sentTo is a list of fields"
            assert known >= set(names), "sentTo names a field that the configuration lacks"

    async def test_valid_configurations_are_accepted_and_show_no_secret(self, subject: Any) -> None:
        for config in (subject.config, subject.unreachable):
            shown = parsed(subject.connector, config)
            assert_no_secret(subject, config, repr(shown) + str(shown))

    async def test_an_invalid_field_is_reported_by_name(self, subject: Any) -> None:
        assert subject.bad_configs, (
            "give an invalid configuration for each field that can be invalid"
        )
        for field, config in subject.bad_configs.items():
            assert _bad_fields(subject, config) == {f"{CONFIG_PATH}.{field}"}, field

    async def test_an_unknown_field_is_reported_by_name(self, subject: Any) -> None:
        config = {**subject.config, "no_such_field": 1}
        assert _bad_fields(subject, config) == {f"{CONFIG_PATH}.no_such_field"}

    async def test_a_missing_required_field_is_reported_by_name(self, subject: Any) -> None:
        schema = MessageToDict(subject.connector.spec().config_schema)
        for field in schema.get("required", []):
            config = {name: value for name, value in subject.config.items() if name != field}
            assert f"{CONFIG_PATH}.{field}" in _bad_fields(subject, config)

    async def test_check_succeeds_for_a_valid_configuration(self, subject: Any) -> None:
        status = await self._check(subject, subject.config)
        assert status.status == ConnectionStatus.STATUS_SUCCEEDED, status.message

    async def test_check_reports_a_failed_connection_with_a_message(self, subject: Any) -> None:
        status = await self._check(subject, subject.unreachable)
        assert status.status == ConnectionStatus.STATUS_FAILED
        assert status.message, "say why it failed"

    async def test_setup_and_teardown_are_idempotent(self, subject: Any) -> None:
        config = parsed(subject.connector, subject.config)
        streams = await self.selected(subject)
        for operation in ("setup", "setup", "teardown", "teardown", "setup"):
            call = getattr(subject.connector, operation)
            async with nothing_left_behind():
                for message in await listed(call(config, streams)):
                    kind = message.WhichOneof("payload")
                    assert kind in ("log", "control"), f"{operation} yields no {kind}"
                    self._assert_control_is_valid(subject, message)

    async def test_planning_a_teardown_removes_nothing(self, subject: Any) -> None:
        is_planner = isinstance(subject.connector, TeardownPlanner)
        if not is_planner:
            pytest.skip("the connector does not plan its teardown")
        config = parsed(subject.connector, subject.config)
        streams = await self.selected(subject)
        await listed(subject.connector.setup(config, streams))
        plans = []
        for _ in range(2):
            async with nothing_left_behind():
                plans.append(await listed(subject.connector.plan_teardown(config, streams)))
        for message in plans[0]:
            kind = message.WhichOneof("payload")
            assert kind in ("log", "planned_removal"), f"a planned teardown yields no {kind}"
        assert _removals(plans[0]) == _removals(plans[1]), "the plan itself removed something"
        await listed(subject.connector.teardown(config, streams))
        after = await listed(subject.connector.plan_teardown(config, streams))
        assert not _removals(after), "removed resources are planned for removal again"

    def _assert_control_is_valid(self, subject: Any, message: Message) -> None:
        if message.HasField("control"):
            changed = getattr(message.control, message.control.WhichOneof("config") or "")
            parsed(subject.connector, MessageToDict(changed))

    async def _check(self, subject: Any, config: Config) -> ConnectionStatus:
        """Return the ``connection_status`` of a check, which follows any logs."""
        streams = await self.selected(subject)
        async with nothing_left_behind():
            checked = parsed(subject.connector, config)
            *logs, last = await listed(subject.connector.check(checked, streams))
        assert all(message.HasField("log") for message in logs), "one status, after logs if any"
        assert last.HasField("connection_status"), "a check ends with its connection_status"
        assert_no_secret(subject, config, *map(str, logs), last.connection_status.message)
        return last.connection_status


async def listed(messages: Messages) -> list[Message]:
    """Return all messages of a call, and close it."""
    async with aclosing(messages):
        return [message async for message in messages]


def assert_valid_schema(schema: Struct) -> None:
    """Fail unless ``schema`` is a valid JSON Schema (2020-12)."""
    jsonschema.Draft202012Validator.check_schema(MessageToDict(schema))


def assert_no_secret(subject: ConnectorSubject, config: Config, *texts: str) -> None:
    """Fail if a text contains a secret of ``config``, or the password within a secret URL."""
    for name in subject.secrets & config.keys():
        secret = str(config[name])
        hidden = {secret, urlsplit(secret).password or secret}
        is_exposed = any(one in text for one in hidden for text in texts)
        assert not is_exposed, f"the secret of {name} was exposed"


def _bad_fields(subject: Any, config: Config) -> set[str]:
    with pytest.raises(InvalidRequest) as caught:
        parsed(subject.connector, config)
    assert_no_secret(subject, config, str(caught.value))
    return {violation.field for violation in caught.value.field_violations}


def _removals(messages: list[Message]) -> list[str]:
    return [one.planned_removal.name for one in messages if one.HasField("planned_removal")]


def _is_write_only(root: Mapping[str, Any], declared: Mapping[str, Any]) -> bool:
    return any(node.get("writeOnly") is True for node in _nodes(root, declared))


def _nodes(root: Mapping[str, Any], node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a property's schema, and the schemas that it refers to or combines."""
    yield node
    reference = str(node.get("$ref", ""))
    if reference.startswith("#/$defs/"):
        yield from _nodes(root, root["$defs"][reference.removeprefix("#/$defs/")])
    for keyword in ("anyOf", "oneOf", "allOf"):
        for option in node.get(keyword, ()):
            yield from _nodes(root, option)


def _values_of(keyword: str, schema: Any) -> Iterator[Any]:
    """Yield the values of a keyword at any depth of a schema."""
    if isinstance(schema, Mapping):
        for name, inner in schema.items():
            if name == keyword:
                yield inner
            else:
                yield from _values_of(keyword, inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _values_of(keyword, inner)


def _no_network(*_: object) -> None:
    raise AssertionError("a spec needs no network")
