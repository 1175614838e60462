"""Tests for masks, which keep stored secrets while their target stays the same."""

from itertools import product
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.catalog_pb2 import Connector, Spec
from pipesync_server.secret_mask import MASK
from service_server.configuration.configuration import mask, unmask
from service_server.errors import InvalidRequest
from tests.messages import struct

POSTGRES = PostgresDestination().spec()
STRIPE = StripeSource().spec()
URL = "postgresql://me:secret@db.example.com/app"
HOST = {"host": "db.example.com", "user": "me", "password": "hunter2"}
FILE = {"host": "db.example.com", "user": "me", "password_file": "/run/secrets/pg"}
KEY = {"api_key": "sk_test_1", "webhook_secret": "whsec_1"}


def written_back(spec: Spec, stored: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a configuration after it was read, changed and written back."""
    before = Connector(type="one", config=struct(stored))
    shown = MessageToDict(mask(before, spec).config)
    after = {name: value for name, value in (shown | changes).items() if value != "absent"}
    kept = unmask(Connector(type="one", config=struct(after)), spec, before, "config.source")
    return MessageToDict(kept.config)


def refusals(spec: Spec, stored: dict[str, Any], **changes: Any) -> dict[str, str]:
    """Return the refused masks with the reasons."""
    with pytest.raises(InvalidRequest) as caught:
        written_back(spec, stored, **changes)
    assert not any(str(value) in str(caught.value) for value in stored.values() if value != "me")
    return {
        one.field.removeprefix("config.source.config."): one.description
        for one in caught.value.field_violations
    }


@pytest.mark.parametrize(
    ("spec", "stored"),
    [(POSTGRES, {"url": URL}), (POSTGRES, HOST), (POSTGRES, FILE), (STRIPE, KEY)],
)
def test_a_masked_configuration_is_written_back_with_its_secrets(
    spec: Spec, stored: dict[str, Any]
) -> None:
    assert written_back(spec, stored) == stored


@pytest.mark.parametrize(
    ("spec", "stored", "changes", "secrets"),
    [
        (STRIPE, KEY, {"base_url": "http://127.0.0.1:1"}, {"api_key"}),
        (STRIPE, {**KEY, "base_url": "http://a"}, {"base_url": "absent"}, {"api_key"}),
        (STRIPE, {**KEY, "base_url": "http://a"}, {"base_url": None}, {"api_key"}),
        (POSTGRES, HOST, {"host": "127.0.0.1"}, {"password"}),
        (POSTGRES, HOST, {"port": 5433}, {"password"}),
        (POSTGRES, HOST, {"database": "other"}, {"password"}),
        (POSTGRES, HOST, {"user": "other"}, {"password"}),
        (POSTGRES, HOST, {"ssl_mode": "disable"}, {"password"}),
        (POSTGRES, {**HOST, "ssl_mode": "verify-full"}, {"ssl_mode": "absent"}, {"password"}),
        (POSTGRES, HOST, {"ssl_ca_pem": "-----BEGIN CERTIFICATE-----"}, {"password"}),
        (POSTGRES, HOST, {"host": "absent", "url": "postgresql://elsewhere"}, {"password"}),
        (POSTGRES, FILE, {"host": "127.0.0.1"}, {"password_file"}),
        (POSTGRES, FILE, {"ssl_mode": "disable"}, {"password_file"}),
        (
            POSTGRES,
            {"url": "postgresql://me@db.example.com", "password_file": "/run/secrets/pg"},
            {"url": "postgresql://me@elsewhere"},
            {"password_file"},
        ),
        (POSTGRES, {"url": URL}, {"ssl_mode": "disable"}, {"url"}),
        (POSTGRES, {"url": URL}, {"ssl_ca_pem": "-----BEGIN CERTIFICATE-----"}, {"url"}),
    ],
)
def test_a_secret_for_another_target_has_to_be_given_again(
    spec: Spec, stored: dict[str, Any], changes: dict[str, Any], secrets: set[str]
) -> None:
    found = refusals(spec, stored, **changes)
    assert found.keys() == secrets
    changed = next(reversed(changes))
    for reason in found.values():
        assert f"config.source.config.{changed}" in reason
        assert "give the secret anew" in reason
    anew = dict.fromkeys(secrets, "new")
    assert written_back(spec, stored, **(changes | anew)).items() >= anew.items()


@pytest.mark.parametrize(
    ("spec", "stored", "changes"),
    [
        (STRIPE, KEY, {"base_url": "https://api.stripe.com"}),
        (STRIPE, KEY, {"rate_limit": 5, "api_version": "2024-06-20"}),
        (STRIPE, KEY, {"api_key": "sk_test_2"}),
        (STRIPE, KEY, {"api_key": "sk_test_2", "base_url": "http://127.0.0.1:1"}),
        (POSTGRES, HOST, {"port": 5432, "schema": "other", "batch_size": 7}),
        (POSTGRES, HOST, {"password": "new"}),
        (POSTGRES, {"url": URL}, {"schema": "other", "ssl_mode": None}),
        (POSTGRES, {"url": URL}, {"url": "postgresql://elsewhere", "ssl_mode": "disable"}),
    ],
)
def test_properties_that_keep_the_target_of_a_secret_may_change(
    spec: Spec, stored: dict[str, Any], changes: dict[str, Any]
) -> None:
    assert written_back(spec, stored, **changes) == stored | changes


def test_a_secret_that_names_no_fields_is_bound_to_all_of_them() -> None:
    properties = {"key": {"writeOnly": True}, "other": {"writeOnly": True}, "size": {}}
    spec = Spec(config_schema=struct({"properties": properties}))
    stored = {"key": "hunter2", "other": "hunter3", "size": 1}
    assert written_back(spec, stored) == stored
    assert refusals(spec, stored, size=2).keys() == {"key", "other"}
    assert refusals(spec, stored, undeclared=2).keys() == {"key", "other"}
    assert refusals(spec, stored, other="new").keys() == {"key"}
    assert written_back(spec, stored, key="new", other="newer", size=2)


def test_secrets_in_a_list_keep_their_positions() -> None:
    server = {"properties": {"host": {}, "password": {"writeOnly": True}}}
    spec = Spec(config_schema=struct({"properties": {"servers": {"items": server}}}))
    first, second = ({"host": host, "password": f"of {host}"} for host in ("aa", "bb"))
    stored = {"servers": [first, second]}
    assert written_back(spec, stored) == stored
    turned = [{"host": host, "password": MASK} for host in ("bb", "aa")]
    assert refusals(spec, stored, servers=turned).keys() == {
        "servers.0.password",
        "servers.1.password",
    }


def test_a_mask_in_a_list_is_no_character_of_a_stored_text() -> None:
    either = {"anyOf": [{"type": "string", "writeOnly": True}, {"items": {"writeOnly": True}}]}
    spec = Spec(config_schema=struct({"properties": {"keys": either}}))
    stored = Connector(type="one", config=struct({"keys": "hunter2"}))
    sent = Connector(type="one", config=struct({"keys": [MASK]}))
    with pytest.raises(InvalidRequest, match="none is stored"):
        unmask(sent, spec, stored, "config.source")


def test_a_secret_within_a_secret_is_masked_with_it() -> None:
    either = {"anyOf": [{"items": {"writeOnly": True}}, {"writeOnly": True}]}
    spec = Spec(config_schema=struct({"properties": {"keys": either}}))
    shown = mask(Connector(type="one", config=struct({"keys": ["hunter2"]})), spec)
    assert MessageToDict(shown.config) == {"keys": MASK}


def test_a_mask_keeps_no_secret_if_the_type_of_the_connector_changes() -> None:
    stored = Connector(type="other", config=struct(KEY))
    sent = Connector(type="stripe", config=struct({**KEY, "api_key": MASK}))
    with pytest.raises(InvalidRequest) as caught:
        unmask(sent, STRIPE, stored, "config.source")
    [violation] = caught.value.field_violations
    assert violation.field == "config.source.config.api_key"
    assert "config.source.type changed: give the secret anew" in violation.description


def test_many_changed_fields_are_counted() -> None:
    spec = Spec(config_schema=struct({"properties": {"key": {"writeOnly": True}}}))
    stored = Connector(type="one", config=struct({"key": "hunter2"}))
    others: dict[str, Any] = {f"{number:03}{'x' * 10_000}": 1 for number in range(100)}
    others |= {"".join(letters): 1 for letters in product("abcdefghij", "klmnopqrst", "xy")}
    config = Struct()
    config.update({"key": MASK, **others})
    with pytest.raises(InvalidRequest) as caught:
        unmask(Connector(type="one", config=config), spec, stored, "config.source")
    [violation] = caught.value.field_violations
    assert "297 more changed" in violation.description
    assert len(violation.description) < 1000


def test_a_changed_name_that_may_be_a_secret_is_counted_and_not_shown() -> None:
    changes = {"host": "elsewhere.example.com", "postgresql://u:hunter3@h/db": 1}
    said = refusals(Spec(config_schema=_BOUND), {"token": "hunter1", "host": "old"}, **changes)[
        "token"
    ]
    assert "config.source.config.host, 1 more changed: give the secret anew" in said
    alone = refusals(Spec(config_schema=_BOUND), {"token": "hunter1"}, **{"u:hunter3@h": 1})[
        "token"
    ]
    assert "1 of the fields in config.source.config changed" in alone
    assert "hunter3" not in said + alone


_BOUND = struct({"type": "object", "properties": {"token": {"type": "string", "writeOnly": True}}})


@pytest.mark.parametrize(
    ("spec", "stored", "changes"),
    [
        (STRIPE, KEY, {"webhook_secret": f"{MASK},whsec_new"}),
        (STRIPE, KEY, {"webhook_secret": f"whsec_new, {MASK}"}),
        (STRIPE, KEY, {"webhook_secret": f" {MASK} "}),
        (STRIPE, KEY, {"webhook_secret": [MASK]}),
        (STRIPE, KEY, {"webhook_secret": {"any name": f"{MASK}\n"}}),
        (STRIPE, KEY, {"api_key": f"sk_test_{MASK}"}),
        (POSTGRES, {"url": URL}, {"url": f"postgresql://me:{MASK}@db.example.com/app"}),
        (POSTGRES, {"url": URL}, {"url": f"postgresql://db.example.com/app?password={MASK}"}),
        (POSTGRES, HOST, {"password": f"{MASK}*"}),
        (POSTGRES, FILE, {"password_file": f"/run/secrets/{MASK}"}),
    ],
)
def test_a_mask_is_no_part_of_a_secret(
    spec: Spec, stored: dict[str, Any], changes: dict[str, Any]
) -> None:
    found = refusals(spec, stored, **changes)
    assert found.keys() == changes.keys()
    assert all("send the mask alone to keep the stored value" in text for text in found.values())


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"login": {"token": f"{MASK} "}}, "login.token"),
        ({"keys": ["new", f"{MASK},new"]}, "keys.1"),
        ({"headers": {"accept": f"Bearer {MASK}"}}, "headers.accept"),
        ({"headers": {"u:hunter3@h": f"Bearer {MASK}"}}, "headers"),
        ({"whole": {"inner": [MASK]}}, "whole"),
    ],
)
def test_a_mask_is_no_part_of_a_nested_secret(config: dict[str, Any], field: str) -> None:
    secret = {"writeOnly": True}
    properties = {
        "login": {"properties": {"token": secret}},
        "keys": {"items": secret},
        "headers": {"additionalProperties": secret},
        "whole": secret,
    }
    spec = Spec(config_schema=struct({"properties": properties}))
    sent = Connector(type="one", config=struct(config))
    with pytest.raises(InvalidRequest) as caught:
        unmask(sent, spec, None, "config.source")
    [violation] = caught.value.field_violations
    assert violation.field == f"config.source.config.{field}"
    assert "send the mask alone" in violation.description


def test_text_that_is_no_secret_may_hold_a_mask() -> None:
    changes = {"schema": f"a{MASK}"}
    assert written_back(POSTGRES, HOST, **changes) == HOST | changes
