"""Restrictions that a service requests of an engine for one call; they never loosen its own."""

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Self

CONFINED_KEY = "x-pipesync-confined"
SECRETS_FOLDER_KEY = "x-pipesync-secrets-folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """Restrictions of one call.

    Attributes:
        is_confined: Whether other machines can reach the service, so that its pipelines may belong
            to strangers.
        secrets_folder: Name of the only folder of the engine's secrets directory whose files the
            call may use: the folder of this pipeline, or of the longest matching prefix. Empty
            allows no file, None allows every file of the directory.
    """

    is_confined: bool = False
    secrets_folder: str | None = None

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> Self:
        """Return the restrictions in a call's metadata.

        Any value confines the call, so a malformed value loosens nothing.

        Args:
            metadata: The call's metadata by key, in lower case.
        """
        is_confined = CONFINED_KEY in metadata
        folder = metadata.get(SECRETS_FOLDER_KEY)
        if folder is None and is_confined:
            folder = ""
        return cls(is_confined=is_confined, secrets_folder=folder)

    def metadata(self) -> list[tuple[str, str]]:
        """Return the metadata that request these restrictions."""
        sent = [(CONFINED_KEY, "1")] if self.is_confined else []
        if self.secrets_folder is not None and (self.secrets_folder or not self.is_confined):
            sent.append((SECRETS_FOLDER_KEY, self.secrets_folder))
        return sent


NOT_CONFINED = Confinement()
# Restrictions of the call that the current task handles.
confinement: ContextVar[Confinement] = ContextVar("confinement", default=NOT_CONFINED)
