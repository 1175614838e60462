"""Changes from one catalog to the next, and those changes that are faults."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from packaging.version import Version

from tests.catalogs.loading import LoadedCatalog

# Streams that Stripe removed, each with the first version of the package that lacks it and the
# reason.
EXPECTED_LOSSES: Mapping[tuple[str, str], str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Differences between an earlier and a later catalog.

    Attributes:
        added_streams: Names of streams that only the later catalog has.
        removed_streams: Names of streams that only the earlier catalog has.
        added_fields: Fields that only the later catalog has, as ``stream.field``, of streams that
            both have.
        removed_fields: Fields that only the earlier catalog has, in the same form.
        changed_fields: Fields whose types differ, in the same form with both types.
    """

    added_streams: Sequence[str]
    removed_streams: Sequence[str]
    added_fields: Sequence[str]
    removed_fields: Sequence[str]
    changed_fields: Sequence[str]

    def lines(self) -> Iterator[str]:
        """Yield a line for each kind of change, with every name."""
        for title, names in (
            ("added streams", self.added_streams),
            ("removed streams", self.removed_streams),
            ("added fields", self.added_fields),
            ("removed fields", self.removed_fields),
            ("changed fields", self.changed_fields),
        ):
            if names:
                yield f"{title} ({len(names)}): {', '.join(names)}"


def difference(earlier: LoadedCatalog, later: LoadedCatalog) -> Difference:
    """Return the changes from one catalog to another."""
    before, after = earlier.streams, later.streams
    both = [name for name in before if name in after]
    return Difference(
        added_streams=sorted(after.keys() - before.keys()),
        removed_streams=sorted(before.keys() - after.keys()),
        added_fields=[
            f"{name}.{field}" for name in both for field in after[name] if field not in before[name]
        ],
        removed_fields=[
            f"{name}.{field}" for name in both for field in before[name] if field not in after[name]
        ],
        changed_fields=[
            f"{name}.{field} ({kind} to {after[name][field]})"
            for name in both
            for field, kind in before[name].items()
            if after[name].get(field, kind) != kind
        ],
    )


def predecessors(catalogs: Sequence[LoadedCatalog], later: LoadedCatalog) -> list[LoadedCatalog]:
    """Return the catalogs whose streams a later one must have: the latest of its kind and release.

    Alphas and betas come between releases, and have more than these. One with an older API version
    than a release has less than that release.
    """
    found = {}
    for one in sorted(catalogs, key=lambda catalog: Version(catalog.package)):
        is_before = Version(one.package) < Version(later.package)
        is_release = _kind(one) == ""
        comes_after = one.api_version[:10] <= later.api_version[:10]
        if one is not later and comes_after and (is_before or (is_release and _kind(later))):
            found[_kind(one)] = one
    return [found[kind] for kind in dict.fromkeys(("", _kind(later))) if kind in found]


def faults(catalogs: Sequence[LoadedCatalog], later: LoadedCatalog) -> list[str]:
    """Return a sentence for each fault of a catalog."""
    sentences = [] if later.streams else [f"{later.package} has no streams"]
    without_type = later.streams.keys() - later.object_types.values()
    sentences += [
        f"{later.package} has no type of object for the stream {name}: events do not reach it"
        for name in sorted(without_type)
    ]
    for earlier in predecessors(catalogs, later):
        sentences += [
            f"{later.package} loses the stream {name} of {earlier.package}: "
            + later.unavailable_streams.get(name, "the package has no such list")
            for name in difference(earlier, later).removed_streams
            if (later.package, name) not in EXPECTED_LOSSES
        ]
    return sentences


def _kind(catalog: LoadedCatalog) -> str:
    pre = Version(catalog.package).pre
    return pre[0] if pre is not None else ""
