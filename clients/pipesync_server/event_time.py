"""Creation time of a Stripe event, in either form."""

from datetime import UTC, datetime


def parse_event_time(created: object) -> datetime | None:
    """Return the time in UTC; None if it is no time of the years 1 to 9999.

    Args:
        created: Unix seconds, as in API v1, or ISO 8601 text, as in v2; text without an offset is
            in UTC.
    """
    try:
        match created:
            case bool():
                return None
            case int():
                return datetime.fromtimestamp(created, UTC)
            case str():
                time = datetime.fromisoformat(created)
                if time.tzinfo is None:
                    return time.replace(tzinfo=UTC)
                # In the years 1 and 9999 an offset may lead to a time that no database holds.
                return time.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None
