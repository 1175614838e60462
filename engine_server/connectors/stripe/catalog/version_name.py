"""Names of Stripe's API versions.

Up to 2024-06-20 a version is named by its date alone; since 2024-09-30.acacia also by its release
(https://docs.stripe.com/api-versions), including ``preview``. Previews of features may follow:
``2025-08-27.preview; some_feature=v1``.
"""

import re
from datetime import date

_LAST_WITHOUT_RELEASE = date(2024, 6, 20)
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})(\.[a-z]+)?((?:; ?[a-z0-9_]+=v[0-9]+)*)", re.ASCII)


def is_version_name(text: str) -> bool:
    """Return whether a text has the form of a version's name; only Stripe knows if it exists."""
    match = _NAME.fullmatch(text)
    if match is None:
        return False
    try:
        day = date.fromisoformat(match[1])
    except ValueError:
        return False
    return match[2] is not None or day <= _LAST_WITHOUT_RELEASE
