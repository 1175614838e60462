"""Which API versions' renderings of an object agree with the rows of the catalog's version.

Payloads of events are rendered in the default version of the account or in the version of the
endpoint, whatever version the reader asks for (https://docs.stripe.com/webhooks/versioning).
"""

import re

from engine_server.connectors.stripe.version_name import is_version_name

# A date alone up to 2024-06-20, then a date and the name of its major release
# (https://docs.stripe.com/api/versioning).
_NAMED = re.compile(r"(\d{4}-\d{2}-\d{2})\.([a-z]+)", re.ASCII)

# Not names of releases: their versions may take away what an earlier one had
# (https://docs.stripe.com/sdks/versioning).
_UNSTABLE = frozenset({"preview", "private", "unsafe"})


def is_safe(event_version: str | None, catalog_version: str) -> bool:
    """Tell whether the payload of an event may be written to the rows of a catalog.

    Within one release name later versions only add to earlier ones. So the catalog's own version is
    safe, and a later one of the same name; an earlier one may lack fields that rows have.

    Args:
        event_version: The ``api_version`` of the event, e.g. ``2020-08-27`` or
            ``2025-06-30.basil``; None where the event has none.
        catalog_version: The version that the rows are read in.
    """
    if event_version is None:
        return False
    if event_version == catalog_version:
        return True
    rendered, wanted = _NAMED.fullmatch(event_version), _NAMED.fullmatch(catalog_version)
    if rendered is None or wanted is None or rendered[2] != wanted[2] or wanted[2] in _UNSTABLE:
        return False
    return is_version_name(event_version) and rendered[1] > wanted[1]
