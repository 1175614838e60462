"""Hosts of the service's database, of which one at a time takes writes."""

from urllib.parse import parse_qs, urlsplit

from asyncpg.connect_utils import SessionAttribute


def wanted_server(url: str) -> SessionAttribute | None:
    """Return which of a URL's hosts to connect to.

    None leaves it to the URL's own ``target_session_attrs``.
    """
    parts = urlsplit(url)
    parameters = parse_qs(parts.query)
    hosts = [parts.netloc.rpartition("@")[2], *parameters.get("host", [])]
    has_choice = any("," in host for host in hosts)
    if not has_choice or "target_session_attrs" in parameters:
        return None
    return SessionAttribute.read_write
