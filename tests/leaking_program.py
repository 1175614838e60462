"""Program that logs a secret."""

import json
import sys

from pipesync_server.logging import configure_logging

if __name__ == "__main__":
    configure_logging(format="json")
    for event in (
        {"event": "listening", "address": "127.0.0.1:1"},
        {"event": "leaked", "password": "planted_password"},
    ):
        sys.stderr.write(json.dumps(event) + "\n")
