"""Connectors that break a common rule fail the conformance tests."""

from collections.abc import Sequence, Set
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from pydantic import ConfigDict

from engine_server.connectors.config import ConnectorConfig, config_schema
from engine_server.connectors.conformance import SourceConformance, SourceSubject
from engine_server.connectors.protocols import Messages, SelectedStream
from pipesync.v1.catalog_pb2 import Catalog, Spec, Stream
from pipesync.v1.message_pb2 import Message
from tests.engine_server.connectors.conformance.in_memory import (
    HELD,
    InMemoryConfig,
    InMemorySource,
    connect,
    nothing,
)
from tests.engine_server.connectors.conformance.subjects import SECRET, source_subject
from tests.messages import connected, connection_failed, struct


class OpenConfig(ConnectorConfig):
    password: str
    reachable: bool = True
    page_size: int = 2


class LooseConfig(InMemoryConfig):
    model_config = ConfigDict(extra="allow")


class ShowsItsSecret(InMemorySource):
    config_model: Any = OpenConfig

    def spec(self) -> Spec:
        return Spec(config_schema=config_schema(OpenConfig))


class SendsItsSecretNowhere(InMemorySource):
    def spec(self) -> Spec:
        schema = MessageToDict(super().spec().config_schema)
        schema["properties"]["password"]["sentTo"] = ["no_such_field"]
        return Spec(config_schema=struct(schema))


class TakesAnyField(InMemorySource):
    config_model = LooseConfig


class HasAnInvalidSchema(InMemorySource):
    def spec(self) -> Spec:
        spec = super().spec()
        spec.config_schema["type"] = "no such type"
        return spec


class ChangesItsSpec(InMemorySource):
    calls = 0

    def spec(self) -> Spec:
        self.calls += 1
        spec = super().spec()
        spec.config_schema["description"] = str(self.calls)
        return spec


class AsksTheNetworkForItsSpec(InMemorySource):
    def spec(self) -> Spec:
        import socket

        with socket.socket() as connection:
            connection.connect_ex(("127.0.0.1", 1))
        return super().spec()


class RaisesInItsCheck(InMemorySource):
    async def check(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        connect(config)
        yield connected()


class TellsItsSecret(InMemorySource):
    async def check(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield connection_failed(f"{config.password.get_secret_value()} is the wrong password")


class SaysItTwice(InMemorySource):
    async def check(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        yield connected()
        yield connected()


class SetsUpOnce(InMemorySource):
    is_set_up = False

    def setup(self, config: InMemoryConfig, streams: Sequence[SelectedStream]) -> Messages:
        if self.is_set_up:
            raise FileExistsError("it is there already")
        self.is_set_up = True
        return nothing()


class OffersAStreamTwice(InMemorySource):
    async def discover(self, config: InMemoryConfig) -> Messages:
        [message] = [message async for message in super().discover(config)]
        yield Message(catalog=Catalog(streams=[*message.catalog.streams] * 2))


class OffersStreamsWithoutKeys(InMemorySource):
    async def discover(self, config: InMemoryConfig) -> Messages:
        [message] = [message async for message in super().discover(config)]
        for stream in message.catalog.streams:
            stream.ClearField("primary_key")
        yield message


class LooksStreamsUp(InMemorySource):
    async def look_up(self, config: InMemoryConfig, names: Set[str]) -> list[Stream]:
        [message] = [message async for message in self.discover(config)]
        return [stream for stream in message.catalog.streams if stream.name in names]


class LooksUpTooMuch(LooksStreamsUp):
    async def look_up(self, config: InMemoryConfig, names: Set[str]) -> list[Stream]:
        return await super().look_up(config, HELD.keys())


class LooksThemUpTwice(LooksStreamsUp):
    async def look_up(self, config: InMemoryConfig, names: Set[str]) -> list[Stream]:
        return await super().look_up(config, names) * 2


class LooksUpWhatIsNotThere(LooksStreamsUp):
    async def look_up(self, config: InMemoryConfig, names: Set[str]) -> list[Stream]:
        return [Stream(name=name) for name in names]


class TestLooksStreamsUp(SourceConformance):
    @pytest.fixture
    def subject(self) -> SourceSubject:
        return source_subject(LooksStreamsUp())


A_CHECK_FAILS = "test_check_reports_a_failed_connection_with_a_message"
DISCOVER = "test_discover_yields_one_catalog_of_streams_with_keys_and_schemas"

LOOK_UP = "test_look_up_returns_the_streams_of_the_catalog"


@pytest.mark.parametrize(
    ("broken", "rule", "said"),
    [
        (ShowsItsSecret, "test_secrets_are_marked_write_only", "a secret is a"),
        (
            ShowsItsSecret,
            "test_valid_configurations_are_accepted_and_show_no_secret",
            "the secret of password was exposed",
        ),
        (
            SendsItsSecretNowhere,
            "test_sent_to_names_existing_fields",
            "sentTo names a field that the configuration lacks",
        ),
        (TakesAnyField, "test_an_unknown_field_is_reported_by_name", "DID NOT RAISE"),
        (HasAnInvalidSchema, "test_spec_contains_valid_schemas", "no such type"),
        (ChangesItsSpec, "test_spec_is_constant_and_needs_no_network", "the spec changed"),
        (
            AsksTheNetworkForItsSpec,
            "test_spec_is_constant_and_needs_no_network",
            "a spec needs no network",
        ),
        (RaisesInItsCheck, A_CHECK_FAILS, "unreachable"),
        (TellsItsSecret, A_CHECK_FAILS, "the secret of password was exposed"),
        (SaysItTwice, A_CHECK_FAILS, "one status"),
        (SetsUpOnce, "test_setup_and_teardown_are_idempotent", "there already"),
        (OffersAStreamTwice, DISCOVER, "two streams of one name"),
        (OffersStreamsWithoutKeys, DISCOVER, "has no primary key"),
        (LooksUpTooMuch, LOOK_UP, "assert"),
        (LooksThemUpTwice, LOOK_UP, "found twice"),
        (LooksUpWhatIsNotThere, LOOK_UP, "assert"),
    ],
)
async def test_a_connector_that_breaks_a_rule_fails(
    broken: type[InMemorySource], rule: str, said: str
) -> None:
    with pytest.raises(BaseException, match=said) as caught:
        await getattr(SourceConformance(), rule)(source_subject(broken()))
    if broken is TellsItsSecret:
        assert SECRET not in str(caught.value)


async def test_a_valid_configuration_listed_as_invalid_fails() -> None:
    subject = source_subject(InMemorySource(), bad_configs={"password": {"password": "fine"}})
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        await SourceConformance().test_an_invalid_field_is_reported_by_name(subject)
