"""API versions in which an event's payload agrees with the rows of the catalog's version.

Payloads are rendered in the default version of the account or in the version of the endpoint,
regardless of the version that the reader asks for (https://docs.stripe.com/webhooks/versioning).
"""

import re

from engine_server.connectors.stripe.catalog.version_name import is_version_name

# A plain date up to 2024-06-20, then a date and the name of the major release
# (https://docs.stripe.com/api/versioning).
_NAMED = re.compile(r"(\d{4}-\d{2}-\d{2})\.([a-z]+)", re.ASCII)

# No release names: these versions may remove features of an earlier one
# (https://docs.stripe.com/sdks/versioning).
_UNSTABLE = frozenset({"preview", "private", "unsafe"})


def is_safe(event_version: str | None, catalog_version: str) -> bool:
    """Return whether the payload of an event may be written to the rows of a catalog.

    Within one release name, later versions only add to earlier ones. The catalog's own version and
    later ones of the same name are therefore safe; an earlier one may lack fields of the rows.

    Args:
        event_version: The ``api_version`` of the event, e.g. ``2020-08-27`` or
            ``2025-06-30.basil``; None if the event has none.
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
