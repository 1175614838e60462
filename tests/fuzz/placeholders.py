"""Stand-ins for values that differ from run to run, each as long as its actual value.

They can be replaced in bytes that were cut, mixed and measured, so examples can be stored.
"""

import time

from google.protobuf.message import Message

from pipesync.v1.message_pb2 import WebhookDelivery
from tests.stripe_simulator.signatures import signature_header

WEBHOOK_SECRET = "whsec_fuzz"
API_KEY = "sk_test_simulator"
# Before they are replaced they lead nowhere.
BASE_URL = "http://127.0.0.1:00001"
DATABASE_URL = f"postgresql://u@127.0.0.1:1/x?application_name={'x' * 150}"
SIGNATURE = f"t=1700000000,v1={'0' * 64}"


def padded_url(url: str) -> str:
    """Return the URL of a database, as long as its stand-in."""
    start = f"{url}&application_name="
    return start + "x" * (len(DATABASE_URL) - len(start))


class Actual:
    """Actual values of the stand-ins."""

    def __init__(self, base_url: str, database_url: str) -> None:
        self._replaced = (
            (BASE_URL.encode(), base_url.encode()),
            (DATABASE_URL.encode(), padded_url(database_url).encode()),
        )
        for stand_in, actual in self._replaced:
            assert len(stand_in) == len(actual), (stand_in, actual)

    def bytes(self, text: bytes) -> bytes:
        """Return the bytes with the stand-ins replaced by their actual values."""
        for stand_in, actual in self._replaced:
            text = text.replace(stand_in, actual)
        return text


def signed(body: bytes) -> str:
    """Return the signature header of a delivery of this body, as of now."""
    return signature_header(body, WEBHOOK_SECRET)


def sign(message: Message) -> None:
    """Sign the deliveries in a message that have the stand-in of a signature."""
    if isinstance(message, WebhookDelivery):
        for name, value in message.headers.items():
            if value == SIGNATURE:
                message.headers[name] = signed(message.body)
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for one in value if field.is_repeated else [value]:
            sign(one)


def now() -> int:
    """Return the time in Unix seconds."""
    return int(time.time())
