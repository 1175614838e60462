"""End of the connection that listens for notifications."""

import asyncio
from typing import Any

import pytest

from service_server.store.database import Database
from service_server.store.notifications import Notifications


async def test_listening_can_end_at_the_moment_of_its_own_notification(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    received, note = asyncio.Event(), Notifications._note_echo

    def note_and_set(self: Notifications, *notification: Any) -> None:
        note(self, *notification)
        received.set()

    def note_later(self: Notifications, *notification: Any) -> None:
        # By then the notification is awaited.
        asyncio.get_running_loop().call_later(0.1, note_and_set, self, *notification)

    monkeypatch.setattr(Notifications, "_note_echo", note_later)
    notifications = Notifications(database)
    # Without the other loop, whose end takes some iterations of the event loop.
    async with asyncio.timeout(60), notifications._listening.running():
        await received.wait()
