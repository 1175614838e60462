"""Shapes of events."""

import time
from typing import Any

import orjson
import pytest
import structlog

from engine_server.connectors.stripe.catalog.streams import api_version
from engine_server.connectors.stripe.events.event import Event, NotAnEvent, log_event
from tests.engine_server.connectors.stripe.events.builders import NOW, Document, event, thin

CUSTOMER: Document = {"id": "cus_1", "object": "customer"}


def test_a_snapshot_event_holds_its_object_and_the_previous_values() -> None:
    sent = event("customer.updated", CUSTOMER, previous={"name": None}, account="acct_1")
    read = Event.parse(orjson.dumps(sent))
    assert read == Event(
        id=sent["id"],
        type="customer.updated",
        created=NOW,
        api_version=api_version(),
        account="acct_1",
        livemode=False,
        object=CUSTOMER,
        previous={"name": None},
        related=None,
    )
    assert Event.parse(sent) == read


def test_a_thin_event_names_its_object() -> None:
    read = Event.parse(thin("v1.customer.updated", "customer", "cus_1", "/v1/customers/cus_1"))
    assert read.object is None
    assert read.related is not None
    assert (read.related.type, read.related.id) == ("customer", "cus_1")
    assert (read.created, read.unversioned_type) == (NOW, "customer.updated")


@pytest.mark.parametrize(
    ("fields", "account"),
    [
        ({}, None),
        ({"account": "acct_1"}, "acct_1"),
        ({"account": None, "context": "acct_2"}, "acct_2"),
        ({"context": "org_1/acct_3"}, "acct_3"),
    ],
)
def test_the_account_is_parsed_in_the_form_of_v1_and_of_v2(
    fields: Document, account: str | None
) -> None:
    assert Event.parse(event("customer.created", CUSTOMER, **fields)).account == account


@pytest.mark.parametrize(
    "fields",
    [
        {"id": None},
        {"type": 5},
        {"created": None},
        {"created": "soon"},
        {"created": "0001-01-01T00:00:00+14:00"},
        {"created": "9999-12-31T23:59:59-14:00"},
    ],
)
def test_data_without_an_events_required_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(NotAnEvent):
        Event.parse({**event("customer.created", CUSTOMER), **fields})


def test_every_ingress_logs_an_event_alike() -> None:
    sent = event("customer.created", CUSTOMER)
    with structlog.testing.capture_logs() as logs:
        log_event("websocket", Event.parse(sent))
    assert logs == [
        {
            "event": "event_received",
            "log_level": "info",
            "ingress": "websocket",
            "event_id": sent["id"],
            "event_type": "customer.created",
        }
    ]


def test_a_time_without_an_offset_is_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        sent = {**event("customer.created", CUSTOMER), "created": "2026-01-01T00:00:00"}
        assert Event.parse(sent).created == 1_767_225_600
    finally:
        monkeypatch.undo()
        time.tzset()
