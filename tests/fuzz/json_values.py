"""Strategies of JSON: odd values, values that a schema describes or nearly does, and edits."""

import math
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import strategies as st

# Texts that are invalid JSON, or that some parsers refuse, once they are encoded as JSON.
ODD_TEXTS = (
    "",
    "\0",
    "a\0b",
    "\x1b[31m\r\nlevel=error",
    "'; DROP TABLE x; --",
    "\u202e\ufeff\U0010ffff",
    "********",
    "x" * 300,
    "x" * 20_000,
    "9" * 400,
    "-1",
    "null",
    "NaN",
    "../../etc/passwd",
    "%s%n{0}",
)
ODD_NUMBERS = (
    -1,
    0,
    2**31,
    2**53 + 1,
    2**63 - 1,
    -(2**63),
    2**64,
    10**30,
    1e308,
    -0.0,
    0.5,
    1e-300,
)
NOT_FINITE = (math.nan, math.inf, -math.inf)

odd_scalars = (
    st.sampled_from((None, True, False, *ODD_TEXTS, *ODD_NUMBERS))
    | st.text(max_size=20)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
)
odd_json = st.recursive(
    odd_scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(ODD_TEXTS), inner, max_size=3)
    ),
    max_leaves=6,
) | st.sampled_from((8, 40, 120)).map(lambda depth: nested(depth))


def nested(depth: int) -> Any:
    """Return a value of that depth."""
    value: Any = {}
    for _ in range(depth):
        value = {"x": [value]}
    return value


def described(schema: Mapping[str, Any], *, oddness: int = 12) -> st.SearchStrategy[Any]:
    """Return a strategy of values of a JSON schema; one in ``oddness`` of their parts is odd."""

    def odd_or(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.integers(1, oddness).flatmap(lambda roll: odd_json if roll == oddness else usual)

    def of(part: Mapping[str, Any]) -> st.SearchStrategy[Any]:
        return odd_or(_usual(part))

    def _usual(part: Mapping[str, Any]) -> st.SearchStrategy[Any]:
        if "$ref" in part:
            return of(schema["$defs"][part["$ref"].rpartition("/")[2]])
        if "const" in part:
            return st.just(part["const"])
        if "enum" in part:
            return st.sampled_from(part["enum"])
        for choice in ("anyOf", "oneOf"):
            if choice in part:
                return st.one_of([of(one) for one in part[choice]])
        kind = part.get("type", "object")
        if isinstance(kind, list):
            return st.one_of([_usual({**part, "type": one}) for one in kind])
        match kind:
            case "object":
                return _object(part)
            case "array":
                return st.lists(of(part.get("items", {"type": "string"})), max_size=3)
            case "string":
                return _text(part)
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
            case "integer":
                return st.integers(int(part.get("minimum", -10)), int(part.get("maximum", 10**10)))
            case _:
                least = part.get("minimum", part.get("exclusiveMinimum", -1e6))
                return st.floats(float(least), float(part.get("maximum", 1e9)), allow_nan=False)

    def _object(part: Mapping[str, Any]) -> st.SearchStrategy[Any]:
        required = part.get("required", ())
        properties = {name: of(one) for name, one in part.get("properties", {}).items()}
        made = st.fixed_dictionaries(
            {name: one for name, one in properties.items() if name in required},
            optional={name: one for name, one in properties.items() if name not in required},
        )
        more = st.dictionaries(
            st.text(max_size=6) | st.sampled_from(ODD_TEXTS), odd_json, max_size=1
        )
        return st.integers(1, oddness).flatmap(
            lambda roll: st.builds(lambda a, b: {**a, **b}, made, more) if roll == oddness else made
        )

    return _usual(schema)


def _text(part: Mapping[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" in part:
        return st.from_regex(str(part["pattern"]))
    examples = [part[name] for name in ("default",) if isinstance(part.get(name), str)]
    words = st.text(st.sampled_from("abcdefgh_-.:/0123456789"), max_size=12)
    return (st.sampled_from(examples) | words) if examples else words


edits = st.lists(
    st.tuples(
        st.sampled_from(("put", "put", "put", "drop", "twice", "rename")),
        st.integers(0, 10_000),
        odd_json,
    ),
    min_size=1,
    max_size=4,
)


def edited(value: Any, made: list[Any]) -> Any:
    """Return a copy of a JSON value with each edit made somewhere in it."""
    value = _copy(value)
    holder = [value]
    for kind, place, odd in made:
        places = list(_places(holder))
        inside, key = places[place % len(places)]
        match kind:
            case "put":
                # A copy: a value that contains itself has no end.
                inside[key] = _copy(odd)
            case "drop" if inside is not holder:
                del inside[key]
            case "twice" if isinstance(inside, list) and inside is not holder:
                inside.insert(key, _copy(inside[key]))
            case "rename" if isinstance(inside, dict):
                inside[str(odd)[:50]] = inside.pop(key)
            case _:
                inside[key] = [inside[key]]
    return holder[0]


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copy(one) for name, one in value.items()}
    return [_copy(one) for one in value] if isinstance(value, list) else value


def _places(value: Any) -> Any:
    """Yield every place in a value; without recursion, as the value may be deep."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        for key in list(one) if isinstance(one, dict) else range(len(one)):
            yield one, key
            if isinstance(one[key], dict | list):
                waiting.append(one[key])


def to_struct(value: Mapping[str, Any]) -> Struct:
    """Return a Struct, whose numbers are floats; parts too deep for the wire are cut off."""
    return Struct(fields={_unicode(name): _to_value(one, 30) for name, one in value.items()})


def _to_value(value: Any, depth: int) -> Value:
    match value:
        case None:
            return Value(null_value=cast("Any", 0))
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=float(value))
        case str():
            return Value(string_value=_unicode(value))
        case _ if depth == 0:
            return Value(null_value=cast("Any", 0))
        case dict():
            fields = {_unicode(str(name)): _to_value(one, depth - 1) for name, one in value.items()}
            return Value(struct_value=Struct(fields=fields))
        case _:
            values = [_to_value(one, depth - 1) for one in value]
            return Value(list_value=ListValue(values=values))


def _unicode(text: str) -> str:
    return text.encode(errors="replace").decode()
