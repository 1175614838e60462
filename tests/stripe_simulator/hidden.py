"""Lists that hide some of their objects, and the parameters that show all of them."""

from collections.abc import Mapping

from tests.stripe_simulator.objects import ObjectList, ObjectOrder

_ASKS_FOR_ALL: Mapping[str, Mapping[str, str]] = {
    "/v1/subscriptions": {"status": "all"},
    "/v1/tax/locations": {"type": "performance"},
    "/v2/money_management/financial_accounts": {
        "statuses[0]": "closed",
        "statuses[1]": "open",
        "statuses[2]": "pending",
    },
}


def shown(path: str, objects: ObjectList, query: Mapping[str, str]) -> ObjectOrder:
    """Return the objects that a list with this query shows."""
    asked = _ASKS_FOR_ALL.get(path)
    if asked is not None and asked.items() <= query.items():
        return objects.everything
    return objects.listed


def asks_for_all(path: str, param: str, value: str) -> bool:
    """Return whether a parameter is (part of) the filter that makes this list show everything."""
    return _ASKS_FOR_ALL.get(path, {}).get(param) == value
