"""Bearer tokens."""

import pytest
from pydantic import ValidationError

from pipesync_server.settings import ServerSettings
from pipesync_server.tokens import TokenAuthenticator, Unauthenticated, hash_token

AUTHENTICATOR = TokenAuthenticator([hash_token("one"), hash_token("two").upper()])


@pytest.mark.parametrize("authorization", ["Bearer one", "bearer two", "BEARER  one "])
def test_a_known_token_is_admitted(authorization: str) -> None:
    AUTHENTICATOR.admit(authorization)


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
def test_an_unknown_token_is_refused(authorization: str, message: str) -> None:
    with pytest.raises(Unauthenticated, match=message):
        AUTHENTICATOR.admit(authorization)


def test_without_tokens_every_caller_is_admitted() -> None:
    TokenAuthenticator([]).admit("")


def test_bytes_that_are_not_utf_8_are_an_unknown_token() -> None:
    with pytest.raises(Unauthenticated, match="does not know this token"):
        AUTHENTICATOR.admit("Bearer \udcff")


@pytest.mark.parametrize(
    ("hashes", "sentence"),
    [
        ("", "token_hashes must hold at least one hash, or be left out"),
        (" , ", "token_hashes must hold at least one hash, or be left out"),
        ("letmein", "number 1 is not the SHA-256 hash"),
        (f"{hash_token('one')},{hash_token('two')[:-1]}", "number 2 is not the SHA-256 hash"),
    ],
)
def test_a_server_refuses_to_start_with_invalid_hashes_without_showing_them(
    hashes: str, sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence) as caught:
        ServerSettings.model_validate({"listen": "127.0.0.1:0", "token_hashes": hashes})
    assert "letmein" not in str(caught.value)


def test_hashes_may_be_omitted_or_in_upper_case() -> None:
    assert ServerSettings(listen="127.0.0.1:0").token_hashes == ()
    given = ServerSettings.model_validate(
        {"listen": "127.0.0.1:0", "token_hashes": hash_token("one").upper()}
    )
    assert given.token_hashes == (hash_token("one"),)
