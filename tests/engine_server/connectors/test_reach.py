"""Rules for the hosts of connectors. No test here connects to anything."""

import time
from ipaddress import ip_address

import pytest

from engine_server.connectors.addresses import (
    Address,
    is_local_or_metadata,
    is_of_interface,
    parse_host,
)
from engine_server.connectors.reach import (
    AllowedHosts,
    HostRefused,
    Reach,
    Resolve,
    resolve_by_system,
)
from tests.engine_server.connectors.resolving import Resolver, resolver

STRIPE = frozenset({"api.stripe.com"})

LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "127.0.0.1.",
    "[::1]",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::1%lo",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "[::FFFF:127.0.0.1]",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::7f00:1",
    "2002:7f00:1::",
    "fe80::5efe:127.0.0.1",
    "2001:db8::5efe:127.0.0.1",
    "\uff11\uff12\uff17.0.0.1",
    "127\u30020\uff0e0\uff611",
    "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    "LOCALHOST",
    "localhost.",
    "db.localhost",
    "0",
    "0.0.0.0",  # noqa: S104 - an address to refuse
    "::",
    "0.1.2.3",
]
METADATA = [
    "169.254.169.254",
    "0xA9FEA9FE",
    "2852039166",
    "::ffff:169.254.169.254",
    "169.254.1.1",
    "fe80::1",
    "fe80::1%eth0",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd20:ce::254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "224.0.0.1",
    "255.255.255.255",
    "ff02::1",
]
USUAL = ["10.1.2.3", "192.168.0.10", "172.16.0.1", "100.64.0.9", "fd12:3456::1", "8.8.8.8"]


def _confined(resolve: Resolve = resolve_by_system) -> Reach:
    """Return confined rules that ignore the interfaces of this machine."""
    return Reach(is_confined=True, resolve=resolve, is_of_interface=_is_none)


def _is_none(_: Address) -> bool:
    return False


@pytest.mark.parametrize("host", [*LOOPBACK_SPELLINGS, *METADATA])
def test_a_confined_engine_does_not_connect_to_its_machine_link_or_cloud(host: str) -> None:
    with pytest.raises(HostRefused, match="which this engine does not connect to"):
        _confined().check(host)
    Reach().check(host)


@pytest.mark.parametrize("host", [*USUAL, "db.example.com", "DB.Example.COM.", "bücher.example"])
async def test_a_confined_engine_connects_to_private_addresses_and_names(host: str) -> None:
    checked = _confined().check(host)
    assert str(checked) == host.lower().removesuffix(".").replace("bücher", "xn--bcher-kva")


@pytest.mark.parametrize(
    "host", ["", "a b", "127.0.0.1 x", "1.2.3.4.5", "256.1.1.1", "a..b", "-", "a\0b", "a/b", "::g"]
)
def test_an_invalid_host_is_always_refused(host: str) -> None:
    for reach in (
        _confined(),
        Reach(allowed=AllowedHosts(["0.0.0.0/0", "::/0"])),
    ):
        with pytest.raises(HostRefused, match="no host name"):
            reach.check(host)


@pytest.mark.parametrize("address", [*LOOPBACK_SPELLINGS[:3], *METADATA[:4], "::1"])
async def test_a_name_with_one_refused_address_is_refused(address: str) -> None:
    leads = resolver(db__example__com=["10.0.0.1", address])
    with pytest.raises(HostRefused, match=r"db\.example\.com leads to"):
        await _confined(resolve=leads).addresses("db.example.com", 5432)


async def test_the_checked_addresses_are_returned_for_the_connection() -> None:
    leads = Resolver({"db.example.com": [["10.0.0.1", "::ffff:10.0.0.2"], ["127.0.0.1"]]})
    found = await _confined(resolve=leads).addresses("DB.example.com", 5432)
    assert found == [ip_address("10.0.0.1"), ip_address("10.0.0.2")]
    assert leads.asked == ["db.example.com"]


def test_a_confined_source_reaches_only_its_own_service() -> None:
    reach = _confined()
    assert reach.check("API.stripe.com", own=STRIPE) == "api.stripe.com"
    for host in ("example.com", "api.stripe.com.example.com", "xapi.stripe.com", "10.0.0.1"):
        with pytest.raises(HostRefused, match="--allowed-hosts"):
            reach.check(host, own=STRIPE)


ALLOWED = AllowedHosts(
    ["db.example.com", ".internal.example", "10.1.0.0/16", "127.0.0.1", "fd12::/16", "/run/pg/"]
)


@pytest.mark.parametrize(
    "host",
    [
        "db.example.com",
        "Db.Example.com.",
        "a.internal.example",
        "10.1.2.3",
        "::ffff:10.1.2.3",
        "0x0a010203",
        "127.1",
        "fd12::9",
    ],
)
def test_a_list_allows_names_suffixes_and_networks_in_any_spelling(host: str) -> None:
    Reach(allowed=ALLOWED, is_confined=True).check(host, own=STRIPE)


@pytest.mark.parametrize("host", ["10.2.0.1", "::1", "127.0.0.2", "8.8.8.8", "64:ff9b::a01:203"])
def test_a_list_allows_nothing_else(host: str) -> None:
    with pytest.raises(HostRefused, match="not among the hosts"):
        Reach(allowed=ALLOWED).check(host)


async def test_an_unlisted_name_may_resolve_to_a_listed_address() -> None:
    leads = resolver(one__example=["10.1.0.1"], two__example=["10.1.0.1", "10.2.0.1"])
    reach = Reach(allowed=ALLOWED, resolve=leads)
    assert await reach.addresses("one.example", 1) == [ip_address("10.1.0.1")]
    with pytest.raises(HostRefused, match="not among the hosts"):
        await reach.addresses("two.example", 1)


async def test_a_listed_name_may_resolve_to_any_address_and_a_suffix_not_to_the_machine() -> None:
    leads = resolver(
        db__example__com=["169.254.0.1"],
        a__internal__example=["192.168.1.1"],
        b__internal__example=["169.254.169.254"],
        c__internal__example=["127.0.0.1"],
    )
    reach = Reach(allowed=ALLOWED, resolve=leads)
    assert await reach.addresses("db.example.com", 1)
    assert await reach.addresses("a.internal.example", 1)
    with pytest.raises(HostRefused, match="leads to the engine's machine"):
        await reach.addresses("b.internal.example", 1)
    # Its network is listed.
    assert await reach.addresses("c.internal.example", 1)


def test_a_list_without_networks_refuses_a_name_without_resolving_it() -> None:
    reach = Reach(allowed=AllowedHosts([".example.com"]))
    for host in ("example.com", "example.org", "notexample.com"):
        with pytest.raises(HostRefused):
            reach.check(host)


def test_behind_a_proxy_only_the_name_is_checked() -> None:
    reach = Reach(allowed=ALLOWED)
    for host in ("db.example.com", "a.internal.example", "10.1.2.3"):
        reach.check_name(host)
    for host in ("one.example", "10.2.0.1"):
        with pytest.raises(HostRefused):
            reach.check_name(host)
    _confined().check_name("api.stripe.com", own=STRIPE)
    with pytest.raises(HostRefused):
        _confined().check_name("example.com", own=STRIPE)


def test_unix_sockets_are_refused_when_confined_or_unlisted() -> None:
    Reach().check_socket("/run/pg")
    Reach(allowed=ALLOWED, is_confined=True).check_socket("/run/pg")
    for reach in (
        _confined(),
        Reach(allowed=AllowedHosts(["/run/other"])),
    ):
        with pytest.raises(HostRefused):
            reach.check_socket("/run/pg")
    with pytest.raises(HostRefused):
        Reach(allowed=ALLOWED).check_socket("/run/pg/../x")


def test_a_call_tightens_the_rules_and_never_loosens_them() -> None:
    assert Reach().confined().is_confined
    assert _confined().confined() == _confined()
    listed = Reach(allowed=ALLOWED).confined()
    listed.check("127.0.0.1")
    with pytest.raises(HostRefused):
        listed.check("8.8.8.8")


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.1/8", "10.0.0.0/33", "db.example.com:5432", "a b", ".", "*.", "*.10.0.0.1", "x/8", ""],
)
def test_an_invalid_entry_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="is no "):
        AllowedHosts([entry])


def test_mapped_networks_and_stars_are_normalized() -> None:
    hosts = AllowedHosts(["::ffff:10.0.0.0/104", "*.example.com"])
    assert hosts.holds(ip_address("10.9.9.9"))
    assert not hosts.holds(ip_address("11.9.9.9"))
    assert hosts.has_suffix_of("a.b.example.com")
    assert not hosts.has_suffix_of("example.com")


def test_responses_are_shown_only_from_known_hosts() -> None:
    for reach in (
        Reach(),
        _confined(),
        Reach(allowed=ALLOWED),
    ):
        assert reach.knows("api.stripe.com", own=STRIPE)
        assert not reach.knows("10.1.2.3", own=STRIPE)
        assert not reach.knows("one.example", own=STRIPE)
        assert not reach.knows("a b", own=STRIPE)
        assert reach.knows("localhost") == reach.knows("::1") == reach.is_open
        assert reach.knows("a.internal.example") == (reach.allowed is not None)


def test_ordinary_addresses_are_not_local() -> None:
    assert not any(is_local_or_metadata(ip_address(text)) for text in USUAL)
    assert parse_host("::ffff:10.0.0.1") == ip_address("10.0.0.1")


@pytest.mark.parametrize("text", ["a" + "\u0327\u0323" * 240_000, "é." * 300_000, "1" * 10**6])
def test_a_long_text_is_refused_quickly(text: str) -> None:
    before = time.process_time()
    with pytest.raises(ValueError, match="is no host name"):
        parse_host(text)
    assert time.process_time() - before < 0.1


def test_a_name_may_have_253_characters_and_a_dot() -> None:
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    assert parse_host(f"{name}.") == name


@pytest.mark.parametrize("host", ["192.0.2.2", "fd00::2", "64:ff9b::192.0.2.2", "::ffff:192.0.2.2"])
async def test_the_addresses_of_the_machines_interfaces_are_refused(host: str) -> None:
    own = {ip_address("192.0.2.2"), ip_address("fd00::2")}
    names = resolver(db__example__com=[host], cache__example__com=["192.0.2.3"])
    reach = Reach(is_confined=True, resolve=names, is_of_interface=own.__contains__)
    with pytest.raises(HostRefused, match="leads to the engine's machine"):
        reach.check(host)
    with pytest.raises(HostRefused, match="leads to the engine's machine"):
        await reach.addresses("db.example.com", 5432)
    assert await reach.addresses("cache.example.com", 5432) == [ip_address("192.0.2.3")]
    below = Reach(
        allowed=AllowedHosts([".example.com"]), resolve=names, is_of_interface=own.__contains__
    )
    with pytest.raises(HostRefused):
        await below.addresses("db.example.com", 5432)
    listed = Reach(allowed=AllowedHosts([host]), is_confined=True, is_of_interface=own.__contains__)
    assert listed.admits(parse_host_address(host))


def parse_host_address(host: str) -> Address:
    address = parse_host(host)
    assert not isinstance(address, str)
    return address


def test_the_kernel_recognises_its_own_addresses() -> None:
    assert is_of_interface(ip_address("127.0.0.1"))
    # From networks for documentation (RFC 5737 and 3849), so no machine has these addresses.
    assert not is_of_interface(ip_address("203.0.113.77"))
    assert not is_of_interface(ip_address("2001:db8::77"))


@pytest.mark.parametrize("host", ["postgresql://u:hunter2@h/db", "hunter2!", "u:hunter2@h", "a/b"])
def test_an_invalid_host_is_not_repeated(host: str) -> None:
    with pytest.raises(HostRefused) as caught:
        _confined().check(host)
    assert str(caught.value) == "the host is no host name or address"
