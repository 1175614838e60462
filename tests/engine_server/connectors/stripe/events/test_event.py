"""The shapes in which events come."""

from typing import Any

import orjson
import pytest
import structlog

from engine_server.connectors.stripe.catalog import api_version
from engine_server.connectors.stripe.events.event import Event, NotAnEvent, log_event
from tests.engine_server.connectors.stripe.events.builders import NOW, Document, event, thin

CUSTOMER: Document = {"id": "cus_1", "object": "customer"}


def test_a_snapshot_event_holds_its_object_and_what_it_was_before() -> None:
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
    assert (read.created, read.happening) == (NOW, "customer.updated")


@pytest.mark.parametrize(
    ("fields", "account"),
    [
        ({}, None),
        ({"account": "acct_1"}, "acct_1"),
        ({"account": None, "context": "acct_2"}, "acct_2"),
        ({"context": "org_1/acct_3"}, "acct_3"),
    ],
)
def test_the_account_is_told_as_v1_or_as_v2_tells_it(fields: Document, account: str | None) -> None:
    assert Event.parse(event("customer.created", CUSTOMER, **fields)).account == account


@pytest.mark.parametrize(
    "fields", [{"id": None}, {"type": 5}, {"created": None}, {"created": "soon"}]
)
def test_what_lacks_what_every_event_has_is_none(fields: dict[str, Any]) -> None:
    with pytest.raises(NotAnEvent):
        Event.parse({**event("customer.created", CUSTOMER), **fields})


def test_every_way_in_tells_of_an_event_alike() -> None:
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
