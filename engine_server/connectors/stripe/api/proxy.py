"""HTTP proxy named by the environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from engine_server.errors import ConnectionFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """A proxy for requests to the API.

    Attributes:
        url: The address, without credentials, so it may be shown.
        variable: The environment variable that names it, in capitals.
        headers: Headers for the proxy itself, such as a password; never shown.
    """

    url: str
    variable: str
    headers: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        """Return the proxy's name in errors."""
        return f"the proxy {self.url} (from {self.variable})"


def proxy_for(base_url: str) -> Proxy | None:
    """Return the proxy of ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``; None for none.

    aiohttp could look it up as well, but does so for every request, ignores values that it cannot
    use, and takes credentials from ``~/.netrc``, which cannot be combined with a key.

    Raises:
        ConnectionFailed: The named proxy cannot be used.
    """
    target = urlsplit(base_url)
    text = getproxies().get(target.scheme)
    if not text or proxy_bypass(target.netloc):
        return None
    variable = f"{target.scheme.upper()}_PROXY"
    try:
        url = URL(text if "://" in text else f"http://{text}")
        # Basic authentication cannot represent a colon in a user name.
        is_usable = url.scheme == "http" and bool(url.host) and ":" not in (url.user or "")
    except ValueError:
        is_usable = False
    if not is_usable:
        # The value is left out: it may hold a password.
        raise ConnectionFailed(
            f"{variable} must be the address of an HTTP proxy, such as http://proxy.example:3128"
        )
    headers = {}
    if url.user is not None:
        credentials = aiohttp.encode_basic_auth(url.user, url.password or "")
        headers["Proxy-Authorization"] = credentials
    return Proxy(url=str(url.origin()), variable=variable, headers=headers)
