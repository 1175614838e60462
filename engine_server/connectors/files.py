"""Files on the engine's machine that a configuration may name."""

import os
import stat
from pathlib import Path

from pydantic import ValidationInfo

# Key of the directory in pydantic's validation context; without it, no file is allowed.
SECRETS_DIRECTORY = "secrets_directory"
# Key of the folder name from the service's call, to which files are restricted: an empty name
# allows no file; without the key, the whole directory is allowed.
SECRETS_FOLDER = "secrets_folder"

_MAX_BYTES = 1024 * 1024
# A folder whose name ends with one of these serves all pipelines with that prefix.
_SEPARATORS = "-_"


class UnusableFile(OSError):
    """The file is not suitable for a secret."""


def allowed_file(path: str, info: ValidationInfo) -> str:
    """Return ``path`` if the operator allows configurations to name it.

    Otherwise, the creator of a pipeline could make the engine read any file that the engine can
    access. Symbolic links are resolved for the check only, so a link's target may change while the
    engine runs.

    Raises:
        ValueError: The path lies outside the engine's secrets directory, or outside the folder
            named by the service, or is not a regular file. The message continues a sentence that
            begins with the name of the field.
    """
    if not Path(path).is_absolute():
        raise ValueError("must be an absolute path")
    if "\0" in path:
        raise ValueError("must hold no NUL")
    context = info.context or {}
    directory: Path | None = context.get(SECRETS_DIRECTORY)
    if directory is None:
        raise ValueError(
            "names a file of the engine's machine, which this engine does not allow: give the "
            "content itself, or have the engine started with --secrets-directory"
        )
    name: str | None = context.get(SECRETS_FOLDER)
    where = "the engine's secrets directory"
    if name is not None:
        folder = folder_for(name, directory)
        if folder is None:
            raise ValueError(
                f"names a file, and {where} {directory} has no folder for this pipeline: one is "
                "called as the pipeline is, or as a prefix of that which ends in - or _"
            )
        directory, where = folder, f"the pipeline's folder of {where}"
    try:
        is_inside = Path(path).resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError):
        # The links form a loop.
        is_inside = False
    if not is_inside:
        raise ValueError(f"must be a file in {directory}, {where}")
    try:
        require_regular(path)
    except UnusableFile as error:
        raise ValueError(str(error)) from None
    except OSError:
        # The file may not exist yet; reading it later reports that.
        pass
    return path


def folder_for(name: str, directory: Path) -> Path | None:
    """Return the folder with the pipeline's name, else with the longest prefix of it.

    A prefix ends in ``-`` or ``_``.

    Args:
        name: The pipeline's id; empty for none.
        directory: Parent directory of the folders.

    Returns:
        The folder; None when there is none.
    """
    for end in range(len(name), 0, -1):
        if end == len(name) or name[end - 1] in _SEPARATORS:
            folder = name[:end]
            if folder not in {".", ".."} and "/" not in folder and (directory / folder).is_dir():
                return directory / folder
    return None


def require_regular(path: str | Path) -> None:
    """Refuse a file that could block its reader, or be endless, without opening it.

    Raises:
        UnusableFile: The path is a pipe, a device, a directory, or a file that is too large.
        OSError: The file does not exist or cannot be accessed.
    """
    _require_regular(Path(path).stat())


def read_file(path: str | Path) -> bytes:
    """Return the content of a regular file; never blocks on a pipe.

    Raises:
        UnusableFile: See ``require_regular``.
        OSError: The file cannot be read.
    """
    require_regular(path)
    # Checked again once open: the file may have been replaced.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor))
        return file.read(_MAX_BYTES)


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnusableFile("must be a regular file: no pipe, device or directory")
    if found.st_size > _MAX_BYTES:
        raise UnusableFile(f"must be no larger than {_MAX_BYTES} bytes")
