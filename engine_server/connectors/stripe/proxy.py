"""The HTTP proxy that the environment names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from engine_server.errors import ConnectionFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy between here and the API.

    Attributes:
        url: Where it is, without credentials: it may be shown.
        variable: The environment variable that names it, in capitals.
        headers: What it is told for itself, such as a password; never to be shown.
    """

    url: str
    variable: str
    headers: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        """What an error calls it."""
        return f"the proxy {self.url} (from {self.variable})"


def proxy_for(base_url: str) -> Proxy | None:
    """What ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY`` say; None to connect directly.

    aiohttp could look it up as well, but would do so for every request, ignore what it cannot use,
    and take a user name and password from ``~/.netrc``, which cannot go together with a key.

    Raises:
        ConnectionFailed: a proxy is named that cannot be used.
    """
    target = urlsplit(base_url)
    text = getproxies().get(target.scheme)
    if not text or proxy_bypass(target.netloc):
        return None
    variable = f"{target.scheme.upper()}_PROXY"
    try:
        url = URL(text if "://" in text else f"http://{text}")
        # Basic authentication has no way to tell a colon in a user name.
        is_usable = url.scheme == "http" and bool(url.host) and ":" not in (url.user or "")
    except ValueError:
        is_usable = False
    if not is_usable:
        # Without the value: it may hold a password.
        raise ConnectionFailed(
            f"{variable} must be the address of an HTTP proxy, such as http://proxy.example:3128"
        )
    headers = {}
    if url.user is not None:
        credentials = aiohttp.encode_basic_auth(url.user, url.password or "")
        headers["Proxy-Authorization"] = credentials
    return Proxy(url=str(url.origin()), variable=variable, headers=headers)
