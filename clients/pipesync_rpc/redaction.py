"""Takes secrets out of text that others wrote."""

import re

# https://docs.stripe.com/keys and https://docs.stripe.com/webhooks/signature
_STRIPE_SECRETS = re.compile(r"((?:[sr]k_(?:live|test)|whsec)_)\w+")
_PASSWORDS_IN_URLS = re.compile(r"(\w://[^\s:/@\"']*:)[^\s/@\"']+(?=@)")


def redact(text: str) -> str:
    """``text`` without Stripe's keys and webhook secrets, and without passwords in URLs."""
    return _PASSWORDS_IN_URLS.sub(r"\1***", _STRIPE_SECRETS.sub(r"\1***", text))
