"""Configurations that lead to the same place, and those that do not."""

from typing import Any

import pytest

from engine_server.connectors.postgres.destination import PostgresDestination
from engine_server.connectors.stripe.source import StripeSource
from pipesync.v1.catalog_pb2 import Connector
from service_server.target import target_of
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
def test_the_same_database_however_it_is_named(same: dict[str, Any]) -> None:
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
def test_another_database(other: dict[str, Any]) -> None:
    assert postgres(url=URL) != postgres(**other)


def test_a_port_for_each_host() -> None:
    one = postgres(url="postgresql://u@a:1,[::1]:2,c/db")
    assert (one["host"], one["port"]) == ("a,localhost,c", "1,2,5432")
    assert postgres(url="postgresql://u@127.0.0.1/db") == postgres(host="localhost", database="db")


def test_an_account_and_an_address_are_places_and_a_key_is_none() -> None:
    own = stripe(api_key="sk_1", rate_limit=5)
    assert own == stripe(api_key="sk_2", base_url="https://api.stripe.com/")
    assert own != stripe(api_key="sk_1", stripe_account="acct_1")
    assert own != stripe(api_key="sk_1", base_url="http://127.0.0.1:1")


def test_nothing_secret_is_part_of_a_place() -> None:
    assert "secret" not in str(postgres(url=URL))


def test_a_url_that_is_none_is_compared_as_it_is() -> None:
    assert postgres(url="postgresql://[") == postgres(url="postgresql://[")
