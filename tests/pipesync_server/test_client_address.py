"""Addresses that calls are counted by."""

import pytest

from pipesync_server.client_address import TrustedProxies, peer_address


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:4711", "10.0.0.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("unix:", "unix"),
        ("unix:/run/pipesync.sock", "unix"),
        ("", "unix"),
    ],
)
def test_the_address_in_the_name_of_a_peer(peer: str, address: str) -> None:
    assert peer_address(peer) == address


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded_for", "client"),
    [
        ([], "10.0.0.1", "", "10.0.0.1"),
        # Any caller can send the header.
        ([], "10.0.0.1", "192.0.2.7", "10.0.0.1"),
        (["10.0.0.0/8"], "10.0.0.1", "192.0.2.7", "192.0.2.7"),
        (["10.0.0.0/8"], "10.0.0.1", "", "10.0.0.1"),
        # The caller's own entries precede those of the proxy.
        (["10.0.0.0/8"], "10.0.0.1", "198.51.100.1, 192.0.2.7", "192.0.2.7"),
        (["10.0.0.0/8"], "10.0.0.1", "192.0.2.7, 10.0.0.2", "192.0.2.7"),
        (["10.0.0.0/8"], "10.0.0.1", "10.0.0.3,10.0.0.2", "10.0.0.3"),
        (["10.0.0.0/8"], "10.0.0.1", "192.0.2.7, nonsense", "10.0.0.1"),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", "::ffff:192.0.2.7", "192.0.2.7"),
        (["unix"], "unix", "192.0.2.7", "192.0.2.7"),
        (["10.0.0.0/8"], "unix", "192.0.2.7", "unix"),
        ([], "2001:db8::1", "", "2001:db8::/64"),
        ([], "2001:db8::2:0:0:1", "", "2001:db8::/64"),
        (["2001:db8::1"], "2001:db8::1", "2001:db8:1::5", "2001:db8:1::/64"),
    ],
)
def test_only_trusted_proxies_are_believed(
    trusted: list[str], peer: str, forwarded_for: str, client: str
) -> None:
    assert TrustedProxies(trusted).client(peer, forwarded_for) == client


@pytest.mark.parametrize("proxies", [["nonsense"], ["10.0.0.0/33"], [""]])
def test_an_invalid_network_is_refused(proxies: list[str]) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        TrustedProxies(proxies)
