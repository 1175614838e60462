"""Listening to the database ends when it is told to."""

import asyncio
from typing import Any

import pytest

from service_server.store.database import Database
from service_server.store.notifications import Notifications


async def test_notifications_end_in_the_moment_in_which_their_echo_is_heard(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, note = asyncio.Event(), Notifications._note_echo

    def note_and_tell(self: Notifications, *notification: Any) -> None:
        note(self, *notification)
        heard.set()

    def note_later(self: Notifications, *notification: Any) -> None:
        # When it is waited for.
        asyncio.get_running_loop().call_later(0.1, note_and_tell, self, *notification)

    monkeypatch.setattr(Notifications, "_note_echo", note_later)
    notifications = Notifications(database)
    # Alone: the end of the other loop takes some turns of the event loop.
    async with asyncio.timeout(60), notifications._listening.running():
        await heard.wait()
