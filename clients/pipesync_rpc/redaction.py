"""Takes secrets out of text that others wrote."""

import re

# https://docs.stripe.com/keys and https://docs.stripe.com/webhooks/signature
_STRIPE_SECRETS = re.compile(r"((?:[sr]k_(?:live|test)|whsec)_)\w+")
_PASSWORDS_IN_URLS = re.compile(r"(\w://[^\s:/@\"']*:)[^\s/@\"']+(?=@)")
# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_PASSWORD_PARAMETERS = re.compile(r"\b((?:ssl)?password=)(?:'(?:\\.|[^'\\])*'|[^\s&\"']+)")


def redact(text: str) -> str:
    """``text`` without Stripe's keys and webhook secrets, and without passwords in URLs."""
    for secret in (_STRIPE_SECRETS, _PASSWORDS_IN_URLS, _PASSWORD_PARAMETERS):
        text = secret.sub(r"\1***", text)
    return text
