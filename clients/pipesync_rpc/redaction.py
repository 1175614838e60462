"""Removal of secrets from external text."""

import re

# https://docs.stripe.com/keys and https://docs.stripe.com/webhooks/signature
_STRIPE_SECRETS = re.compile(r"((?:[sr]k_(?:live|test)|whsec)_)\w+")
# Each pattern takes linear time: no two of its matches, or failed attempts, can read the same text.
_PASSWORDS_IN_URLS = re.compile(r"(\w://[^\s:/@\"']*+:)[^\s/@\"']++(?=@)")
# A password with reserved characters that are not percent-encoded ends with the last "@".
_POSTGRES_AUTHORITIES = re.compile(
    r"(\bpostgres(?:ql)?://[^\s:/@\"']*+:)([^\s\"']*+)", re.IGNORECASE
)
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_PASSWORD_PARAMETERS = re.compile(r"\b((?:ssl)?password=)(?:'(?:\\.|[^'\\])*'|[^\s&\"']+)")


def redact(text: str) -> str:
    """Return the text without Stripe keys, webhook secrets and passwords in URLs."""
    text = _STRIPE_SECRETS.sub(r"\1***", text)
    text = _POSTGRES_AUTHORITIES.sub(_without_password, text)
    for secret in (_PASSWORDS_IN_URLS, _PASSWORD_PARAMETERS):
        text = secret.sub(r"\1***", text)
    return text


def _without_password(authority: re.Match[str]) -> str:
    before, rest = authority.groups()
    _, at, host = rest.rpartition("@")
    return f"{before}***@{host}" if at else authority[0]
