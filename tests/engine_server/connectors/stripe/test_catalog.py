"""Streams of the installed stripe package, and how each is listed."""

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from google.protobuf.json_format import MessageToDict
from stripe import ListObject
from stripe.params.tax._location_list_params import LocationListParams

from engine_server.connectors.stripe.catalog.endpoints import list_endpoints
from engine_server.connectors.stripe.catalog.exceptions import (
    CREATED_FIELDS,
    NESTED_LISTS,
    NOT_SHOWN,
    OWN_LIMITS,
    OWNERS,
    SHOW_ALL,
    NestedList,
)
from engine_server.connectors.stripe.catalog.left_out import LEFT_OUT
from engine_server.connectors.stripe.catalog.streams import (
    Resource,
    api_version,
    load_resources,
    stream_name,
)

ITEMS_NOTE = "the items of subscriptions; time ranges are about subscriptions"
PINNED_STREAMS = Path(__file__).with_name("streams_of_stripe_16_1.txt")


def field_types(resource: Resource) -> dict[str, str]:
    """Return the JSON type of each field, without null."""
    types = {}
    for field, schema in MessageToDict(resource.stream.json_schema)["properties"].items():
        types[field], null = schema["type"]
        assert null == "null"
    return types


def test_the_streams_are_those_of_the_pinned_package() -> None:
    assert list(load_resources()) == PINNED_STREAMS.read_text().splitlines()


def test_a_stream_is_named_after_the_path_of_its_list() -> None:
    assert stream_name("/v1/customers") == "customers"
    assert stream_name("/v1/checkout/sessions") == "checkout_sessions"
    assert stream_name("/v2/core/accounts") == "v2_core_accounts"


def test_every_list_is_a_stream_or_inside_another_one_or_left_out() -> None:
    listed = {resource.path for resource in load_resources().values() if not resource.nested_field}
    assert not listed & NESTED_LISTS.keys()
    assert not LEFT_OUT.keys() & {*listed, *NESTED_LISTS}
    assert {*listed, *NESTED_LISTS, *LEFT_OUT} == set(list_endpoints())


def test_no_two_lists_share_a_name() -> None:
    names = [inside.stream for inside in NESTED_LISTS.values()]
    names += [stream_name(path) for path in {*list_endpoints()} - {*NESTED_LISTS, *LEFT_OUT}]
    assert sorted(names) == list(load_resources())


def test_a_list_inside_other_objects_is_read_there() -> None:
    resources = load_resources()
    items, parents = resources["subscription_items"], resources["subscriptions"]
    assert (items.nested_field, parents.nested_field) == ("items", "")
    for attribute in ("path", "api", "list_params", "created_param", "created_field"):
        assert getattr(items, attribute) == getattr(parents, attribute)
    assert items.stream.supports_time_range
    assert field_types(items).keys() > {"id", "subscription", "price", "quantity", "deleted"}
    assert "customer" not in field_types(items)


@pytest.mark.parametrize("inside", NESTED_LISTS.values(), ids=lambda inside: inside.stream)
def test_a_nested_list_always_exists(inside: NestedList) -> None:
    # A parameter that is sent only on request is optional.
    annotations = list_endpoints()[inside.parent].object_class().__annotations__
    origin: Any = get_origin(annotations[inside.field])
    assert origin is ListObject


@pytest.mark.parametrize("name", ["setup_attempts", "issuing_tokens"])
def test_a_list_that_needs_a_parameter_is_no_stream(name: str) -> None:
    assert name not in load_resources()


def test_a_required_parameter_with_one_value_is_sent() -> None:
    values = get_args(LocationListParams.__annotations__["type"])
    assert load_resources()["tax_locations"].list_params == {"type": values[0]}
    assert len(values) == 1


def test_every_exception_is_about_a_list_that_exists() -> None:
    parents = {inside.parent for inside in NESTED_LISTS.values()}
    exceptions = {*SHOW_ALL, *NOT_SHOWN, *CREATED_FIELDS, *OWN_LIMITS, *OWNERS, *parents}
    assert exceptions <= {resource.path for resource in load_resources().values()}


def test_lists_are_sent_only_their_parameters() -> None:
    for resource in load_resources().values():
        endpoint = list_endpoints()[resource.path]
        sent = {name.partition("[")[0] for name in resource.list_params}
        sent |= {"limit"} if resource.takes_limit else set()
        sent |= {resource.created_param} if resource.created_param else set()
        sent |= {resource.owner_field} if resource.owner_field else set()
        assert sent <= endpoint.required_params | endpoint.optional_params
        assert endpoint.required_params <= sent


def test_records_are_identified_by_id_and_account() -> None:
    for resource in load_resources().values():
        assert [list(path.segments) for path in resource.stream.primary_key] == [
            ["id"],
            ["_account_id"],
        ]


def test_records_have_a_text_id() -> None:
    for resource in load_resources().values():
        assert field_types(resource)["id"] == "string"


def test_every_stream_names_its_list_and_api_version() -> None:
    for resource in load_resources().values():
        metadata = MessageToDict(resource.stream.metadata)
        assert metadata["api_version"] == api_version()
        assert metadata["path"] == resource.path


@pytest.mark.parametrize(
    ("stream", "note"),
    [
        ("charges", ""),
        ("reviews", "without closed reviews"),
        (
            "entitlements_active_entitlements",
            "filled by events alone: what was before the first one is not read",
        ),
        ("transfer_reversals", "the reversals of transfers; time ranges are about transfers"),
        ("subscription_items", f"{ITEMS_NOTE}; without subscriptions on a test clock"),
    ],
)
def test_a_stream_has_a_note_for_users(stream: str, note: str) -> None:
    assert load_resources()[stream].stream.metadata["note"] == note


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (
            "customers",
            {
                "id": "string",
                "object": "string",
                "created": "integer",
                "livemode": "boolean",
                "address": "object",
                "metadata": "object",
                "default_source": "string",
                "preferred_locales": "array",
                "tax_exempt": "string",
                "deleted": "boolean",
                "discount": "object",
            },
        ),
        (
            "subscriptions",
            {"customer": "string", "items": "object", "status": "string", "created": "integer"},
        ),
        (
            "invoices",
            {"lines": "object", "total": "integer", "customer": "string", "due_date": "integer"},
        ),
        (
            "prices",
            {"product": "string", "unit_amount": "integer", "unit_amount_decimal": "string"},
        ),
        ("coupons", {"percent_off": "number"}),
        ("entitlements_active_entitlements", {"customer": "string", "lookup_key": "string"}),
        ("v2_core_accounts", {"created": "string", "configuration": "object"}),
    ],
)
def test_field_types_are_those_of_the_annotations(stream: str, expected: dict[str, str]) -> None:
    types = field_types(load_resources()[stream])
    assert {field: types.get(field) for field in expected} == expected


def test_a_field_named_like_a_python_keyword_has_its_name_on_the_wire() -> None:
    types = field_types(load_resources()["v2_money_management_inbound_transfers"])
    assert types["from"] == "object"
    assert "from_" not in types


def test_the_records_of_every_stream_can_be_marked_deleted() -> None:
    for resource in load_resources().values():
        assert resource.stream.soft_delete_field == "deleted"
        assert field_types(resource)["deleted"] == "boolean"


@pytest.mark.parametrize("stream", ["customers", "invoices", "checkout_sessions", "coupons"])
def test_a_list_that_filters_by_created_is_read_in_windows(stream: str) -> None:
    resource = load_resources()[stream]
    assert resource.stream.supports_time_range
    assert (resource.created_param, resource.created_field) == ("created", "created")


@pytest.mark.parametrize(
    "stream",
    [
        "payment_methods",  # the list has no filter
        "accounts",  # a connected account may lack its creation time
        "product_catalog_trial_offers",  # the object does not say when it was created
        "v2_money_management_transactions",  # v2 times are text
    ],
)
def test_other_lists_are_not_read_in_windows(stream: str) -> None:
    resource = load_resources()[stream]
    assert not resource.stream.supports_time_range
    assert resource.created_param == ""


def test_invoice_items_are_filtered_by_created_and_hold_it_as_date() -> None:
    resource = load_resources()["invoiceitems"]
    assert (resource.created_param, resource.created_field) == ("created", "date")


def test_lists_that_hide_objects_are_requested_with_all() -> None:
    resources = load_resources()
    assert resources["subscriptions"].list_params == {"status": "all"}
    assert resources["customers"].list_params == {}


def test_a_limit_is_sent_only_if_a_page_of_a_hundred_is_supported() -> None:
    without = [name for name, resource in load_resources().items() if not resource.takes_limit]
    assert without == ["exchange_rates", "reporting_report_types"]


def test_v2_lists_keep_their_version_in_the_name() -> None:
    resources = load_resources()
    assert (resources["v2_core_accounts"].api, resources["v2_core_accounts"].path) == (
        "v2",
        "/v2/core/accounts",
    )
    assert resources["customers"].api == "v1"


def test_resources_are_loaded_once() -> None:
    assert load_resources() is load_resources()


def test_loading_opens_no_connection() -> None:
    script = (
        "import sys\n"
        "def refuse(event, args):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo'):\n"
        "        raise SystemExit(f'loading the catalog called {event}{args}')\n"
        "sys.addaudithook(refuse)\n"
        "from engine_server.connectors.stripe.catalog.streams import load_resources\n"
        "assert load_resources()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 (our own text)


def test_the_stripe_package_is_imported_only_when_the_catalog_is_loaded() -> None:
    script = (
        "import sys\n"
        "import engine_server.connectors.stripe.catalog.streams\n"
        "assert 'stripe' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 (our own text)
