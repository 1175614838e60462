"""Every stream has one type of object, and every type one stream."""

import ast
import re
from pathlib import Path

import pytest
import stripe

from engine_server.connectors.stripe.catalog.object_types import object_types
from engine_server.connectors.stripe.catalog.streams import load_resources
from engine_server.connectors.stripe.events.revalidation import retrieve_path


def test_the_objects_of_every_stream_have_a_type_of_their_own() -> None:
    streams = [kind.stream for kind in object_types().values()]
    assert sorted(streams) == sorted(load_resources())


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("customer", "customers"),
        ("invoiceitem", "invoiceitems"),
        ("checkout.session", "checkout_sessions"),
        ("scheduled_query_run", "sigma_scheduled_query_runs"),
        ("fee_refund", "application_fee_refunds"),
        ("account", "accounts"),
        ("v2.core.account", "v2_core_accounts"),
        ("financial_connections.account", "financial_connections_accounts"),
    ],
)
def test_types_with_similar_names_are_distinguished(name: str, stream: str) -> None:
    assert object_types()[name].stream == stream


def test_streams_of_items_belong_to_the_type_that_holds_them() -> None:
    assert {kind.name: dict(kind.items) for kind in object_types().values() if kind.items} == {
        "application_fee": {"application_fee_refunds": "refunds"},
        "radar.value_list": {"radar_value_list_items": "list_items"},
        "subscription": {"subscription_items": "items"},
        "transfer": {"transfer_reversals": "reversals"},
    }


def test_every_object_is_retrieved_like_in_the_stripe_package() -> None:
    known = _retrieve_paths()
    for kind in object_types().values():
        named = {"id": "OBJECT", "fee": "PARENT", "transfer": {"id": "PARENT"}}
        path = retrieve_path(kind, named)
        assert path is not None
        assert re.sub("OBJECT|PARENT", "{}", path) in known, kind.name


def test_an_object_that_does_not_name_its_parent_is_not_retrieved() -> None:
    assert retrieve_path(object_types()["fee_refund"], {"id": "fr_1"}) is None


def _retrieve_paths() -> set[str]:
    """Return the paths of all ``retrieve`` calls, with ``{}`` for each id."""
    return {
        re.sub(r"\{[^}]*\}", "{}", node.value)
        for module in Path(stripe.__file__).parent.rglob("*_service.py")
        for method in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(method, ast.FunctionDef) and method.name == "retrieve"
        for node in ast.walk(method)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(("/v1/", "/v2/"))
    }
