import time
from contextlib import suppress

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct

from engine_server.connectors.config import config_schema, parse_config
from engine_server.connectors.stripe.config import StripeConfig
from engine_server.errors import InvalidRequest
from tests.messages import struct

SECRET = "sk_test_planted_secret"


def violations(**fields: object) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        parse_config(StripeConfig, ParseDict(fields, Struct()), "config")
    return {v.field: v.description for v in caught.value.field_violations}


def test_every_bad_field_is_named_with_the_remedy() -> None:
    found = violations(
        api_key="pk_test_no", base_url="ftp://x", rate_limit=0, max_concurrency=0, account_id="me"
    )
    assert found["config.api_key"] == "must be a secret key (sk_...) or a restricted key (rk_...)"
    assert found["config.base_url"] == (
        "must be an http or https URL, such as https://api.stripe.com"
    )
    assert set(found) == {
        f"config.{name}"
        for name in ("api_key", "base_url", "rate_limit", "max_concurrency", "account_id")
    }


@pytest.mark.parametrize("key", ["sk_test with space", "sk_test\n", "sk_tést"])
def test_a_key_that_fits_in_no_header_is_refused_without_quoting_it(key: str) -> None:
    [description] = violations(api_key=key).values()
    assert key not in description


@pytest.mark.parametrize("key", ["sk_org_live_secret", "sk_org_test_secret", "rk_org_live_secret"])
def test_an_organization_key_is_refused_with_the_alternative(key: str) -> None:
    found = violations(api_key=key)
    assert found == {
        "config.api_key": "is an organization key (sk_org_...), which needs a Stripe-Context "
        "header that pipesync does not send; use a secret key (sk_...) or a restricted key "
        "(rk_...) of the account itself"
    }


def test_an_api_key_is_required() -> None:
    assert violations() == {"config.api_key": "is required"}


def test_no_representation_shows_the_key() -> None:
    config = StripeConfig.model_validate({"api_key": SECRET})
    assert SECRET not in repr(config) + str(config)


def test_a_trailing_slash_of_the_base_url_does_not_matter() -> None:
    config = StripeConfig.model_validate({"api_key": SECRET, "base_url": "http://localhost:1/"})
    assert config.base_url == "http://localhost:1"


def test_the_stored_configuration_is_the_given_one_with_the_account() -> None:
    config = StripeConfig.model_validate({"api_key": SECRET, "rate_limit": 5, "account_id": None})
    assert MessageToDict(config.with_account("acct_1", 1_600_000_000)) == {
        "api_key": SECRET,
        "rate_limit": 5.0,
        "account_id": "acct_1",
        "account_created": 1_600_000_000.0,
    }


def test_a_connected_account_is_not_stored_as_the_keys_account() -> None:
    fields = {"api_key": SECRET, "stripe_account": "acct_2"}
    config = StripeConfig.model_validate(fields)
    assert MessageToDict(config.with_account("acct_2", None)) == fields


def test_a_stored_configuration_is_accepted() -> None:
    stored = StripeConfig.model_validate({"api_key": SECRET}).with_account("acct_1", 1_600_000_000)
    config = StripeConfig.model_validate(MessageToDict(stored))
    assert (config.known_account_id, config.account_created) == ("acct_1", 1_600_000_000)


def test_every_field_is_described_and_the_key_is_marked_secret() -> None:
    properties = MessageToDict(config_schema(StripeConfig))["properties"]
    assert all(field.get("description") for field in properties.values())
    assert [name for name, field in properties.items() if field.get("writeOnly")] == ["api_key"]


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/webhooks/acme?a=b",
        "http://127.0.0.1:8080/webhooks",
        "http://[::1]/",
        "http://localhost/x",
    ],
)
def test_webhook_urls_are_https_or_local(url: str) -> None:
    config = StripeConfig.model_validate({"api_key": SECRET, "webhook_url": url})
    assert config.webhook_url == url


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("http://example.com/x", "must be an https URL that Stripe can reach"),
        ("http://10.0.0.1/x", "must be an https URL that Stripe can reach"),
        ("ftp://example.com/x", "must be an https URL that Stripe can reach"),
        ("https:///x", "must be an https URL that Stripe can reach"),
        ("https://[x/", "must be an https URL that Stripe can reach"),
        ("example.com/x", "must be an https URL that Stripe can reach"),
        ("", "must be an https URL that Stripe can reach"),
        ("https://user:hunter2@example.com/x", "must hold no user name or password"),
        ("https://user@example.com/x", "must hold no user name or password"),
        ("https://example.com/x#y", "must hold no fragment"),
        (f"https://example.com/{'x' * 2048}", "has 2068 characters: at most 2048 are taken"),
    ],
)
def test_an_invalid_webhook_url_is_refused_without_quoting_it(url: str, description: str) -> None:
    found = violations(api_key=SECRET, webhook_url=url)
    assert list(found) == ["config.webhook_url"]
    assert found["config.webhook_url"].startswith(description)
    assert "hunter2" not in found["config.webhook_url"]


def test_objects_to_fetch_again_are_named_by_type() -> None:
    for wanted in ("all", ["customer", "checkout.session"], []):
        config = StripeConfig.model_validate({"api_key": SECRET, "revalidate_objects": wanted})
        assert config.revalidate_objects == wanted
    assert violations(api_key=SECRET, revalidate_objects=["customers"]) == {
        "config.revalidate_objects": (
            "no stream has objects of type customers; did you mean customer?"
        )
    }
    assert violations(api_key=SECRET, revalidate_objects=["customers", "invoice", "zzz"]) == {
        "config.revalidate_objects": (
            "no stream has objects of type customers; did you mean customer?; no stream has "
            "objects of type zzz; types are named like customer or checkout.session"
        )
    }
    many = [f"zzz{number}" for number in range(9_000)]
    assert violations(api_key=SECRET, revalidate_objects=many)[
        "config.revalidate_objects"
    ].endswith("; and of 8995 other types")
    assert violations(api_key=SECRET, revalidate_objects=["customer", "hunter2://u:p@h"]) == {
        "config.revalidate_objects": (
            "no stream has objects of the type at place 2; types are named like customer or "
            "checkout.session"
        )
    }
    for wrong in ("everything", [1], 5):
        assert violations(api_key=SECRET, revalidate_objects=wrong) == {
            "config.revalidate_objects": "must be a list of object types, or all"
        }


@pytest.mark.parametrize("secret", [{}, {"webhook_secret": " , "}])
def test_a_webhook_port_needs_a_secret_and_the_missing_field_is_named(
    secret: dict[str, str],
) -> None:
    assert violations(api_key=SECRET, webhook_port=8080, **secret) == {
        "config.webhook_secret": "is required where webhook_port is set (whsec_...)"
    }


def test_a_webhook_port_is_a_port() -> None:
    found = violations(api_key=SECRET, webhook_port=70_000, webhook_secret="whsec_1")
    assert set(found) == {"config.webhook_port"}


@pytest.mark.parametrize(
    "version",
    [
        "2014-08-20",
        "2024-06-20",
        "2024-09-30.acacia",
        "2026-10-28.endive",
        "2026-10-14.preview",
        "2025-08-27.preview; some_feature=v1",
        "2022-11-15;some_feature=v1;other=v2",
    ],
)
def test_the_name_of_an_api_version_is_accepted(version: str) -> None:
    config = StripeConfig.model_validate({"api_key": SECRET, "api_version": version})
    assert config.api_version == version


@pytest.mark.parametrize(
    "version",
    [
        "",
        "latest",
        "basil",
        "2024-6-20",
        "20240620",
        "2024-02-30",
        "2024-13-01.acacia",
        "2025-03-31",
        "2025-03-31.",
        "2025-03-31.Basil",
        "2025-03-31.basil ",
        " 2025-03-31.basil",
        "2025-03-31.basil\n",
        "2025-03-31 basil",
        "2025-03-31.basil; feature",
        "٢٠٢٤-06-20",
        "v1",
    ],
)
def test_any_other_text_is_no_api_version(version: str) -> None:
    [(field, description)] = violations(api_key=SECRET, api_version=version).items()
    assert field == "config.api_version"
    assert description.endswith("such as 2024-06-20 or 2025-03-31.basil")


def test_at_most_ten_secrets_of_limited_length_are_accepted() -> None:
    joined = ", ".join(f"{number:0>255}" for number in range(10))
    config = StripeConfig.model_validate({"api_key": SECRET, "webhook_secret": joined})
    assert len(config.webhook_secrets) == 10
    for wrong, complaint in (
        (",".join("ab" * 11), "has 22 secrets: at most 10 are taken"),
        ("a," + "x" * 256, "has a secret of 256 characters: at most 255 are taken"),
        (",".join(["aa"] * 200_000), "has 599999 characters: at most 4096 are taken"),
    ):
        assert violations(api_key=SECRET, webhook_secret=wrong) == {
            "config.webhook_secret": complaint
        }


@pytest.mark.parametrize(
    "field", ["base_url", "webhook_url", "api_key", "api_version", "stripe_account", "account_id"]
)
def test_a_text_is_refused_for_its_length_before_it_is_normalised(field: str) -> None:
    before = time.process_time()
    found = violations(**{"api_key": SECRET, field: "https://a" + "\u0327\u0323" * 200_000})
    assert found == {f"config.{field}": "has 400009 characters: at most 2048 are taken"}
    assert time.process_time() - before < 0.25


@pytest.mark.parametrize("host", ["a" + "\u0327\u0323" * 1_000, "é." * 1_000, "[" + ":" * 2_000])
def test_a_short_text_is_validated_quickly(host: str) -> None:
    before = time.process_time()
    with suppress(InvalidRequest):
        parse_config(
            StripeConfig, struct({"api_key": SECRET, "base_url": f"https://{host}"}), "config"
        )
    assert time.process_time() - before < 0.25


@pytest.mark.parametrize(
    "field", ["account_id", "stripe_account", "webhook_endpoint_id", "base_url", "webhook_url"]
)
def test_texts_shown_to_users_hold_no_terminal_escapes(field: str) -> None:
    begin = {"account_id": "acct_", "stripe_account": "acct_", "webhook_endpoint_id": "we_"}
    value = begin.get(field, "https://example.com/") + "\x1b[2K"
    assert violations(api_key=SECRET, **{field: value}) == {
        f"config.{field}": "must hold no control characters or line ends"
    }
