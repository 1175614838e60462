"""Bearer tokens."""

import pytest

from pipesync_rpc.tokens import TokenCheck, Unauthenticated, hash_token

CHECK = TokenCheck([hash_token("one"), hash_token("two").upper()])


@pytest.mark.parametrize("authorization", ["Bearer one", "bearer two", "BEARER  one "])
def test_a_known_token_is_admitted(authorization: str) -> None:
    CHECK.admit(authorization)


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        ("", "the call has none"),
        ("one", "must read: Bearer TOKEN"),
        ("Basic one", "must read: Bearer TOKEN"),
        ("Bearer ", "does not know this token"),
        ("Bearer three", "does not know this token"),
        (f"Bearer {hash_token('one')}", "does not know this token"),
    ],
)
def test_anything_else_is_not(authorization: str, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        CHECK.admit(authorization)


def test_without_tokens_everybody_is_admitted() -> None:
    TokenCheck([]).admit("")
