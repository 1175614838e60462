"""A stripe package in an unknown form: unsupported lists are left out, the others load."""

from pathlib import Path

import pytest

from engine_server.connectors.stripe.catalog.streams import load_resources
from tests.catalogs.altered import Edit, altered_package, replacing
from tests.catalogs.loading import LoadedCatalog, load_catalog

RETURNS = "ListObject[{}]"
# By the stream that is lost: the edits, and the reason in the log.
LOST: dict[str, tuple[dict[str, Edit], str, str]] = {
    "coupons": (
        {
            "_coupon_service.py": replacing(
                '"ListObject[Coupon]"', '"ListObject[Union[Coupon, Plan]]"'
            )
        },
        "/v1/coupons",
        "its objects are of several classes",
    ),
    "reviews": (
        {"_review_service.py": replacing('"ListObject[Review]"', '"ListObject[Review | Charge]"')},
        "/v1/reviews",
        "its objects are of several classes",
    ),
    "plans": (
        {"_plan_service.py": replacing("    def list(", "    def list(!")},
        "stripe/_plan_service.py",
        "SyntaxError",
    ),
    "payouts": (
        {"_payout_service.py": replacing('"ListObject[Payout]"', '"ListObject[stripe.Payout]"')},
        "/v1/payouts",
        "annotation stripe.Payout is not understood",
    ),
    "refunds": (
        {"params/_refund_list_params.py": replacing("class RefundListParams", "class Other")},
        "/v1/refunds",
        "has no RefundListParams",
    ),
    "tax_rates": (
        {"_tax_rate_service.py": replacing('"/v1/tax_rates",', '"/v1/tax_rates" or "/v1/rates",')},
        "_tax_rate_service.py",
        "holds: /v1/rates, /v1/tax_rates",
    ),
    "topups": (
        {"_topup_service.py": replacing("import Topup\n", "import Topup as Other\n")},
        "/v1/topups",
        "its module imports no Topup",
    ),
    "shipping_rates": (
        {"_shipping_rate_service.py": replacing("        params: ", "        arguments: ")},
        "/v1/shipping_rates",
        "takes no params",
    ),
    "promotion_codes": (
        {"_promotion_code.py": replacing("    id: str", "    key: str")},
        "/v1/promotion_codes",
        "its objects have no id",
    ),
    "transfer_reversals": (
        {"_transfer.py": replacing("    reversals: ", "    returns: ")},
        "/v1/transfers/{id}/reversals",
        "the objects of /v1/transfers have no reversals",
    ),
    "subscription_items": (
        {"_subscription_item_service.py": replacing("    def list(", "    def all(")},
        "/v1/subscription_items",
        "has no list /v1/subscription_items",
    ),
    "entitlements_features": (
        {"entitlements/_feature.py": replacing("class Feature(", "class Entitled(")},
        "/v1/entitlements/features",
        "stripe.entitlements._feature has no Feature",
    ),
    "quotes": (
        {"_quote.py": lambda text: text + "\nraise RuntimeError('not\\nhere')\n"},
        "/v1/quotes",
        "RuntimeError: not here",
    ),
}


async def loaded(tmp_path: Path, edits: dict[str, Edit]) -> LoadedCatalog:
    return await load_catalog(altered_package(tmp_path, edits), tmp_path)


async def test_every_list_of_an_unknown_form_is_left_out_alone(tmp_path: Path) -> None:
    edits = {name: edit for one, _, _ in LOST.values() for name, edit in one.items()}
    catalog = await loaded(tmp_path, edits)
    assert catalog.streams.keys() == load_resources().keys() - LOST.keys()
    assert {*catalog.object_types.values()} == catalog.streams.keys()
    for stream, (_, place, reason) in LOST.items():
        [told] = [why for where, why in catalog.left_out.items() if place in where]
        assert reason in told, stream
        assert reason in catalog.unavailable_streams[stream]
    # A method with two paths may belong to either.
    assert catalog.unavailable_streams.keys() == {*LOST, "rates"}
    assert len(catalog.left_out) == len(LOST)


@pytest.mark.parametrize(
    ("edits", "lost", "left_out"),
    [
        pytest.param(
            {"_coupon_service.py": replacing("    def list(", "    async def list(")},
            None,
            {},
            id="a coroutine",
        ),
        pytest.param(
            {"_plan_service.py": replacing("/v1/plans", "/v1/coupons")},
            "plans",
            {"stripe/_plan_service.py:/v1/coupons": "another service has a list of that path"},
            id="the path of another list",
        ),
        pytest.param(
            {"_coupon_service.py": replacing('"/v1/coupons",', 'f"/v1/{self.name}",')},
            "coupons",
            {"/v1/": "its method holds a path in an unknown form: /v1/"},
            id="a path put together",
        ),
    ],
)
async def test_an_unknown_form_costs_at_most_its_own_list(
    tmp_path: Path, edits: dict[str, Edit], lost: str | None, left_out: dict[str, str]
) -> None:
    catalog = await loaded(tmp_path, edits)
    assert catalog.streams.keys() == load_resources().keys() - {lost}
    assert {*catalog.object_types.values()} == catalog.streams.keys()
    assert catalog.left_out == left_out
    assert "percent_off" in catalog.streams.get("coupons", {"percent_off": ""})


async def test_files_that_cannot_be_read_cost_their_own_lists(tmp_path: Path) -> None:
    directory = altered_package(
        tmp_path, {"_coupon_service.py": replacing("    def list(", "    def  list(")}
    )
    module = directory / "stripe/_coupon_service.py"
    module.write_bytes(module.read_bytes() + b"# \xff")
    (directory / "stripe/_other_service.py").mkdir()
    catalog = await load_catalog(directory, tmp_path)
    assert catalog.streams.keys() == load_resources().keys() - {"coupons"}
    assert {*catalog.object_types.values()} == catalog.streams.keys()
    assert catalog.left_out.keys() == {"stripe/_coupon_service.py", "stripe/_other_service.py"}
    assert "UnicodeDecodeError" in catalog.unavailable_streams["coupons"]


async def test_an_unknown_object_type_costs_only_its_events(
    tmp_path: Path,
) -> None:
    edits = {
        "_coupon.py": replacing("    OBJECT_NAME", "    NAME"),
        "_plan.py": replacing('    OBJECT_NAME: ClassVar[Literal["plan"]] = "plan"',
                              '    OBJECT_NAME: ClassVar[Literal["price"]] = "price"'),
    }  # fmt: skip
    catalog = await loaded(tmp_path, edits)
    assert catalog.streams.keys() == load_resources().keys()
    assert catalog.streams.keys() - catalog.object_types.values() == {"coupons", "prices"}
    assert "coupon.created" not in catalog.event_types
    assert "customer.created" in catalog.event_types


@pytest.mark.parametrize(
    ("edits", "place"),
    [
        pytest.param({"*_service.py": lambda _: ""}, "no service", id="no services"),
        pytest.param({"__init__.py": lambda _: "raise OSError('broken')"}, "OSError", id="broken"),
        pytest.param({"_api_version.py": lambda _: ""}, "_ApiVersion", id="no API version"),
    ],
)
async def test_an_unreadable_package_gives_no_streams(
    tmp_path: Path, edits: dict[str, Edit], place: str
) -> None:
    catalog = await loaded(tmp_path, edits)
    assert (catalog.streams, catalog.object_types) == ({}, {})
    assert any(place in reason for reason in catalog.left_out.values())


async def test_an_endpoint_gets_all_events_if_the_package_names_none(
    tmp_path: Path,
) -> None:
    catalog = await loaded(
        tmp_path, {"_event.py": replacing("    type: Literal", "    kind: Literal")}
    )
    assert catalog.event_types == ["*"]
    assert catalog.streams.keys() == load_resources().keys()
