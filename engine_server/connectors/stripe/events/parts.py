"""Events about a part of an object, each with the object that shows the part.

Such an event is not one of the whole (https://docs.stripe.com/api/events/types), so the whole must
be fetched for its row to show the change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from engine_server.connectors.stripe.catalog.object_types import object_types


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An object that contains the event's object as a part.

    Attributes:
        type: The value of its ``object`` field.
        id: Its id.
    """

    type: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reference:
    """A reference from a part to its whole.

    Attributes:
        whole: The type of the whole.
        field: The field of the part that holds the id of the whole.
    """

    whole: str
    field: str


def _named(**fields: str) -> tuple[_Reference, ...]:
    """Return references, each given as ``field="type"``, in order of priority."""
    return tuple(_Reference(whole=whole, field=field) for field, whole in fields.items())


# By the event's type without its last part. The first field that names an object is used: a
# discount of a subscription names the customer, too.
PARTS: Mapping[str, tuple[_Reference, ...]] = MappingProxyType(
    {
        # An account has external_accounts, capabilities and requirements, and shows the person of
        # an individual (https://docs.stripe.com/api/accounts/object).
        "account.external_account": _named(account="account"),
        # The event holds the application that the account is connected by, possibly a second one
        # (https://docs.stripe.com/connect/webhooks).
        "account.application": _named(account="account"),
        "capability": _named(account="account"),
        "person": _named(account="account"),
        # A fee has refunds (https://docs.stripe.com/api/application_fees/object).
        "application_fee.refund": _named(fee="application_fee"),
        # A triggered alert holds the alert (https://docs.stripe.com/api/billing/alert).
        "billing.alert": _named(alert="billing.alert"),
        # A customer has a cash_balance (https://docs.stripe.com/api/cash_balance/object), which its
        # transactions change.
        "cash_balance": _named(customer="customer"),
        "customer_cash_balance_transaction": _named(customer="customer"),
        # A charge shows whether it is disputed, and how much of it is refunded
        # (https://docs.stripe.com/api/charges/object).
        "charge.dispute": _named(charge="charge"),
        "charge.refund": _named(charge="charge"),
        # Some payment methods have no charge.refund events (https://docs.stripe.com/api/refunds).
        "refund": _named(charge="charge"),
        # https://docs.stripe.com/api/discounts/object
        "customer.discount": _named(
            subscription="subscription",
            invoice_item="invoiceitem",
            invoice="invoice",
            customer="customer",
        ),
        # A customer has sources and a default_source, and tax_ids
        # (https://docs.stripe.com/api/customers/object). Sources were cards before 2015-02-18
        # (https://docs.stripe.com/changelog/2015-02-18/customers-have-source-field-accepts-source-card).
        "customer.card": _named(customer="customer"),
        "customer.source": _named(customer="customer"),
        "customer.tax_id": _named(customer="customer"),
        "source": _named(customer="customer"),
    }
)


def whole_of(
    unversioned_type: str, part: Mapping[str, Any], *, account: str | None = None
) -> Whole | None:
    """Return the object that shows the part in an event; None if it is unknown.

    Args:
        unversioned_type: The event's type without a version, e.g. ``customer.source.created``.
        part: The object of the event, in any API version.
        account: The account of the event, if it names one: the part of an account need not name it.
    """
    for reference in PARTS.get(unversioned_type.rpartition(".")[0], ()):
        named = part.get(reference.field)
        if named is None and reference.whole == "account":
            named = account
        # A reference may be expanded.
        object_id = named.get("id") if isinstance(named, Mapping) else named
        is_itself = part.get("object") == reference.whole
        if isinstance(object_id, str) and object_id and not is_itself:
            return Whole(type=reference.whole, id=object_id)
    return None


def whole_at(path: str) -> Whole | None:
    """Return the object whose URL is a prefix of a part's URL; None if there is none.

    Thin events name a part by its URL alone, e.g. ``/v2/core/accounts/acct_1/persons/person_1``
    (https://docs.stripe.com/api/v2/core/events/event-types).
    """
    paths = _paths()
    if path.rpartition("/")[0] in paths:
        # The URL of a listed object, not of a part.
        return None
    for kind_path, object_type in paths.items():
        if path.startswith(f"{kind_path}/"):
            object_id, _, rest = path.removeprefix(f"{kind_path}/").partition("/")
            if object_id and rest:
                return Whole(type=object_type, id=object_id)
    return None


def wholes_shown_by(resource: str) -> Iterator[str]:
    """Yield the types of the objects that events of a resource refresh.

    Args:
        resource: The event's type without its last part, e.g. ``customer.source``.
    """
    for reference in PARTS.get(resource, ()):
        # Another version of the package may lack some lists.
        if reference.whole in object_types():
            yield reference.whole


def _paths() -> Mapping[str, str]:
    """Return types of object by the paths of their lists."""
    return {kind.path: kind.name for kind in object_types().values() if "{" not in kind.path}
