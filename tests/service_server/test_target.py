"""Tests for the targets of configurations."""

from typing import Any

import pytest

from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.catalog_pb2 import Connector
from service_server.configuration.target import target_of
from tests.messages import struct

POSTGRES = PostgresDestination().spec()
STRIPE = StripeSource().spec()
URL = "postgresql://me:secret@db.example.com:5432/app?sslmode=require"


def postgres(**config: Any) -> Any:
    return target_of(Connector(type="postgres", config=struct(config)), POSTGRES)


def stripe(**config: Any) -> Any:
    return target_of(Connector(type="stripe", config=struct(config)), STRIPE)


@pytest.mark.parametrize(
    "same",
    [
        {"url": "postgres://other:word@DB.example.com/app"},
        {"url": "postgresql://db.example.com:5432/app?application_name=x", "batch_size": 7},
        {"url": "postgresql://me@/app?host=db.example.com&port=5432"},
        {"url": "postgresql://app:x@db.example.com"},
        {"host": "db.example.com", "database": "app", "user": "me", "password": "x"},
        {"host": "db.example.com", "port": 5432, "database": "app", "schema": "stripe"},
        {"host": "db.example.com", "user": "app"},
    ],
)
def test_urls_of_the_same_database_have_the_same_target(same: dict[str, Any]) -> None:
    assert postgres(url=URL) == postgres(**same)


@pytest.mark.parametrize(
    "other",
    [
        {"url": "postgresql://me:secret@db2.example.com:5432/app"},
        {"url": "postgresql://me:secret@db.example.com:6432/app"},
        {"url": "postgresql://me:secret@db.example.com:5432/copy"},
        {"url": "postgresql://me:secret@db.example.com:5432/app?dbname=copy"},
        {"url": URL, "schema": "copy"},
        {"host": "db.example.com", "database": "copy"},
        {"host": "db.example.com", "port": 6432, "database": "app"},
    ],
)
def test_urls_of_other_databases_have_other_targets(other: dict[str, Any]) -> None:
    assert postgres(url=URL) != postgres(**other)


def test_each_host_has_its_own_port() -> None:
    one = postgres(url="postgresql://u@a:1,[::1]:2,c/db")
    assert (one["host"], one["port"]) == ("a,localhost,c", "1,2,5432")
    assert postgres(url="postgresql://u@127.0.0.1/db") == postgres(host="localhost", database="db")


def test_an_account_and_an_address_are_part_of_the_target_and_a_key_is_not() -> None:
    own = stripe(api_key="sk_1", rate_limit=5)
    assert own == stripe(api_key="sk_2", base_url="https://api.stripe.com/")
    assert own != stripe(api_key="sk_1", stripe_account="acct_1")
    assert own != stripe(api_key="sk_1", base_url="http://127.0.0.1:1")


def test_no_secret_is_part_of_a_target() -> None:
    assert "secret" not in str(postgres(url=URL))


def test_an_invalid_url_is_compared_unchanged() -> None:
    assert postgres(url="postgresql://[") == postgres(url="postgresql://[")
