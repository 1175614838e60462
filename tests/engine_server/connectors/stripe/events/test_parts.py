"""Events about a part of an object have the whole fetched."""

from typing import Any, get_args

import orjson
import pytest
import stripe
import structlog

from engine_server.connectors.stripe.api.client import StripeClient
from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.events.event_batches import process_events
from engine_server.connectors.stripe.events.failed_events import FailedEvents
from engine_server.connectors.stripe.events.parts import PARTS, Whole, whole_at, whole_of
from engine_server.connectors.stripe.events.same_second import SameSecond
from tests.engine_server.connectors.stripe.events.builders import (
    CUSTOMER,
    NOW,
    Document,
    event,
    records,
    scope,
    thin,
    with_metadata,
)
from tests.stripe_simulator import errors, faults
from tests.stripe_simulator.simulator import StripeSimulator

ACCOUNT = {"id": "acct_2", "object": "account", "charges_enabled": True}
DISPUTE = {"id": "du_1", "object": "dispute", "charge": "ch_1"}
CHARGE = {"id": "ch_1", "object": "charge", "disputed": True}


def test_every_rule_is_about_existing_events_and_wholes() -> None:
    resources = {name.rpartition(".")[0] for name in get_args(stripe.Event.__annotations__["type"])}
    # The equivalent of customer.source in an old API version.
    assert resources | {"customer.card"} >= PARTS.keys()
    wholes = {reference.whole for references in PARTS.values() for reference in references}
    assert wholes <= object_types().keys()


@pytest.mark.parametrize(
    ("event_type", "part", "whole"),
    [
        ("customer.source.expiring", {"object": "card", "customer": "cus_1"}, CUSTOMER),
        ("source.chargeable", {"object": "source", "customer": "cus_1"}, CUSTOMER),
        ("cash_balance.funds_available", {"object": "cash_balance", "customer": "cus_1"}, CUSTOMER),
        (
            "customer_cash_balance_transaction.created",
            {"object": "customer_cash_balance_transaction", "customer": {"id": "cus_1"}},
            CUSTOMER,
        ),
        ("account.external_account.deleted", {"object": "card", "account": "acct_2"}, ACCOUNT),
        ("capability.updated", {"object": "capability", "account": "acct_2"}, ACCOUNT),
        ("person.deleted", {"object": "person", "account": "acct_2"}, ACCOUNT),
        ("customer.card.updated", {"object": "card", "customer": "cus_1"}, CUSTOMER),
        (
            "billing.alert.triggered",
            {"object": "billing.alert_triggered", "alert": {"id": "alrt_1"}},
            {"id": "alrt_1", "object": "billing.alert"},
        ),
    ],
)
@pytest.mark.parametrize("fields", [{}, {"api_version": "2020-08-27"}], ids=["safe", "other"])
async def test_the_whole_of_a_part_that_is_no_record_is_fetched(
    simulator: StripeSimulator,
    client: StripeClient,
    event_type: str,
    part: Document,
    whole: Document,
    fields: dict[str, Any],
) -> None:
    stream = object_types()[whole["object"]].stream
    simulator.objects(stream).put(whole)
    sent = [event(event_type, {"id": "part_1", **part}, **fields) for _ in range(2)]
    assert await records(client, scope(stream), *sent) == [(stream, with_metadata(whole))] * 2
    assert len(simulator.requests) == 1
    assert await records(client, scope("prices"), *sent) == []
    assert len(simulator.requests) == 1


async def test_the_events_account_is_the_whole_if_the_part_names_none(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("accounts").put(ACCOUNT)
    bank = {"id": "ba_1", "object": "bank_account"}
    sent = event("account.external_account.created", bank, account="acct_2")
    assert await records(client, scope("accounts"), sent) == [("accounts", with_metadata(ACCOUNT))]
    # The own account has no row.
    own = event("account.external_account.created", {**bank, "account": "acct_simulator"})
    assert await records(client, scope("accounts"), own) == []
    # A customer of another account is not ours, either.
    theirs = event("customer.source.created", {"customer": "cus_1"}, account="acct_2")
    assert await records(client, scope("accounts", "customers"), theirs) == []


async def test_an_account_that_is_connected_again_is_fetched(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("accounts").put(ACCOUNT)
    application = {"id": "ca_1", "object": "application", "name": "Ours"}
    sent = [
        event(f"account.application.{verb}", application, account="acct_2", created=NOW + at)
        for at, verb in enumerate(("deauthorized", "authorized"))
    ]
    assert await records(client, scope("accounts"), *sent) == [
        ("accounts", with_metadata({"id": "acct_2", "object": "account", "deleted": True})),
        ("accounts", with_metadata(ACCOUNT, NOW + 1)),
    ]
    assert [request.path for request in simulator.requests] == ["/v1/accounts/acct_2"]


async def test_a_thin_event_of_a_connected_account_names_only_the_account(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("accounts").put(ACCOUNT)
    sent = thin(
        "v1.account.application.authorized",
        "application",
        "ca_1",
        "/v1/applications/ca_1",
        context="acct_2",
    )
    [(stream, record)] = await records(client, scope("accounts"), sent)
    assert (stream, record["id"], record["charges_enabled"]) == ("accounts", "acct_2", True)


async def test_an_account_is_retrieved_if_events_of_one_second_contradict(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("accounts").put(ACCOUNT)
    wanted = scope("accounts")
    sent = [
        event("account.updated", ACCOUNT, account="acct_2"),
        event("account.application.deauthorized", {"object": "application"}, account="acct_2"),
    ]
    async with SameSecond(wanted) as same_second:
        processed = process_events(client, wanted, sent, same_second, failed=FailedEvents())
        found = [orjson.loads(m.record_batch.records[-1]) async for m in processed]
    assert found == [with_metadata(ACCOUNT)]
    # Its list may be long.
    assert [request.path for request in simulator.requests] == ["/v1/accounts/acct_2"]


@pytest.mark.parametrize("verb", ["created", "updated", "failed"])
async def test_a_refund_refreshes_its_charge(
    simulator: StripeSimulator, client: StripeClient, verb: str
) -> None:
    simulator.objects("charges").put(CHARGE)
    refund = {"id": "re_1", "object": "refund", "charge": "ch_1"}
    sent = event(f"refund.{verb}", refund)
    assert await records(client, scope("charges", "refunds"), sent) == [
        ("refunds", with_metadata(refund)),
        ("charges", with_metadata(CHARGE)),
    ]


async def test_a_part_that_is_a_record_is_written_with_its_whole(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    simulator.objects("charges").put(CHARGE)
    sent = event("charge.dispute.created", DISPUTE)
    assert await records(client, scope("charges", "disputes"), sent) == [
        ("disputes", with_metadata(DISPUTE)),
        ("charges", with_metadata(CHARGE)),
    ]
    assert await records(client, scope("charges"), sent) == [("charges", with_metadata(CHARGE))]
    assert len(simulator.requests) == 2
    assert await records(client, scope("disputes"), sent) == [("disputes", with_metadata(DISPUTE))]
    assert len(simulator.requests) == 2


async def test_a_part_is_written_if_its_whole_is_unreadable(
    simulator: StripeSimulator, client: StripeClient
) -> None:
    refused = errors.permission_missing("rk_test_1", "acct_simulator", "/v1/charges", "read")
    simulator.faults.add(faults.refuse(refused), path="/v1/charges/*", times=None)
    with structlog.testing.capture_logs() as logs:
        found = await records(
            client, scope("charges", "disputes"), event("charge.dispute.created", DISPUTE)
        )
    assert found == [("disputes", with_metadata(DISPUTE))]
    assert "event_applied_in_part" in {line["event"] for line in logs}


@pytest.mark.parametrize(
    ("sent", "whole"),
    [
        (
            thin(
                "v2.core.account_person.updated",
                "v2.core.account_person",
                "person_1",
                "/v2/core/accounts/acct_2/persons/person_1",
            ),
            {"id": "acct_2", "object": "v2.core.account"},
        ),
        (
            thin("v1.person.updated", "person", "person_1", "/v1/accounts/acct_2/persons/person_1"),
            ACCOUNT,
        ),
        (
            thin("v1.customer.source.created", "card", "card_1", "/v1/customers/cus_1/sources/c"),
            CUSTOMER,
        ),
        # Only the dispute names the charge.
        (thin("v1.charge.dispute.closed", "dispute", "du_1", "/v1/disputes/du_1"), CHARGE),
    ],
)
async def test_the_whole_of_a_part_in_a_thin_event_is_fetched(
    simulator: StripeSimulator, client: StripeClient, sent: Document, whole: Document
) -> None:
    stream = object_types()[whole["object"]].stream
    simulator.objects(stream).put(whole)
    simulator.objects("disputes").put(DISPUTE)
    assert await records(client, scope(stream), sent) == [(stream, with_metadata(whole))]


@pytest.mark.parametrize(
    "sent",
    [
        event("customer.source.created", {"id": "card_1", "object": "card", "customer": None}),
        event("source.transaction.created", {"id": "t_1", "object": "source_transaction"}),
        event("mandate.updated", {"id": "mandate_1", "object": "mandate"}),
        thin(
            "v2.core.account_link.returned", "v2.core.account_link", "l", "/v2/core/account_links/l"
        ),
    ],
)
async def test_a_part_with_an_unknown_whole_is_ignored(
    simulator: StripeSimulator, client: StripeClient, sent: Document
) -> None:
    assert await records(client, scope("customers", "accounts", "v2_core_accounts"), sent) == []
    assert len(simulator.requests) == 0


def test_an_object_of_a_list_is_no_part() -> None:
    assert whole_at("/v1/customers/cus_1") is None
    assert whole_at("/v1/customers/cus_1/discount") == Whole(type="customer", id="cus_1")
    assert whole_at("/v1/elsewhere/cus_1/sources/card_1") is None
    assert whole_of("customer.source.deleted", {**CUSTOMER, "customer": "cus_2"}) is None
