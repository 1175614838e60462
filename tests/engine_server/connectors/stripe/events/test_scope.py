"""Scope of a configuration's events."""

import pytest

from engine_server.connectors.stripe.account import Account
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.connectors.stripe.events.scope import EventScope
from tests.engine_server.connectors.stripe.reading import selected

ACCOUNT = Account(id="acct_1", created=None)


def _scope(key: str = "sk_test_1", **fields: object) -> EventScope:
    config = StripeConfig.model_validate({"api_key": key, **fields})
    return EventScope.of(config, ACCOUNT, [selected("customers")])


@pytest.mark.parametrize(
    ("key", "livemode"), [("sk_live_1", True), ("rk_test_1", False), ("sk_1", None)]
)
def test_the_mode_follows_from_the_key(key: str, livemode: bool | None) -> None:
    assert _scope(key).livemode is livemode


def test_the_records_are_of_the_account_and_of_the_selected_streams() -> None:
    scope = _scope()
    assert (scope.account_id, list(scope.streams)) == ("acct_1", ["customers"])


def test_only_the_account_of_the_key_is_a_platform() -> None:
    assert _scope().is_platform
    assert not _scope(stripe_account="acct_2").is_platform


@pytest.mark.parametrize(
    ("wanted", "expected"), [([], False), (["invoice"], False), (["customer"], True), ("all", True)]
)
def test_the_types_fetched_again_are_configured(wanted: object, expected: bool) -> None:
    assert _scope(revalidate_objects=wanted).revalidates("customer") is expected
