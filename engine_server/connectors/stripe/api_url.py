"""The URLs that Stripe's objects and events name each other by."""

from urllib.parse import parse_qsl, unquote, urlsplit

# Requests carry the key: they go nowhere else, whatever an object says.
_API_PATHS = ("/v1/", "/v2/")


def split_api_url(url: object) -> tuple[str, dict[str, str]] | None:
    """The path and the query of a URL such as ``/v1/invoices/in_1/lines?limit=3``.

    Args:
        url: What an object gives as its URL, which may be anything.

    Returns:
        None when it is no path of the API: one that leads to another host, say, or out of it.
    """
    try:
        target = urlsplit(url if isinstance(url, str) else "")
    except ValueError:
        return None
    is_path = not target.scheme and not target.netloc and target.path.startswith(_API_PATHS)
    if not is_path or not {".", ".."}.isdisjoint(unquote(target.path).split("/")):
        return None
    return target.path, dict(parse_qsl(target.query))
