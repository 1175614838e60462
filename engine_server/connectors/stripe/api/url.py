"""URLs by which Stripe's objects and events refer to each other."""

from urllib.parse import parse_qsl, unquote, urlsplit

# Requests carry the key, so they are never sent outside the API, regardless of the URL.
_API_PATHS = ("/v1/", "/v2/")
# Servers refuse longer URLs.
_MOST_CHARACTERS = 8000


def split_api_url(url: object) -> tuple[str, dict[str, str]] | None:
    """Return the path and the query of a URL such as ``/v1/invoices/in_1/lines?limit=3``.

    Args:
        url: The URL that an object gives, which may be anything.

    Returns:
        None if it is no path of the API, for example if it leads to another host.
    """
    if isinstance(url, str) and len(url) > _MOST_CHARACTERS:
        return None
    try:
        target = urlsplit(url if isinstance(url, str) else "")
    except ValueError:
        return None
    is_path = not target.scheme and not target.netloc and target.path.startswith(_API_PATHS)
    if not is_path or not {".", ".."}.isdisjoint(unquote(target.path).split("/")):
        return None
    return target.path, dict(parse_qsl(target.query))
