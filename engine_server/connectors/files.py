"""The files of the engine's machine that a configuration may name."""

from pathlib import Path

from pydantic import ValidationInfo

# Where a configuration's check finds the directory, in pydantic's context; none when it is absent.
SECRETS_DIRECTORY = "secrets_directory"


def allowed_file(path: str, info: ValidationInfo) -> str:
    """``path``, if the engine's operator lets configurations name it.

    Whoever makes a pipeline would otherwise have the engine read what only the engine may. Links
    are followed for the check only, so that where they lead may change while the engine runs.

    Raises:
        ValueError: It lies elsewhere than below the engine's secrets directory, in words that
            follow the name of what holds ``path``.
    """
    if not Path(path).is_absolute():
        raise ValueError("must be an absolute path")
    directory: Path | None = (info.context or {}).get(SECRETS_DIRECTORY)
    if directory is None:
        raise ValueError(
            "names a file of the engine's machine, which this engine does not allow: give the "
            "content itself, or have the engine started with --secrets-directory"
        )
    try:
        is_inside = Path(path).resolve().is_relative_to(directory.resolve())
    except (OSError, RuntimeError):
        # Links that lead in a circle.
        is_inside = False
    if not is_inside:
        raise ValueError(f"must be a file in {directory}, the engine's secrets directory")
    return path
