"""Stored examples: seeds, and each finding of the past."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).parent / "corpus"


def kept() -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return each example's name, surface and attempt."""
    files = sorted(_DIRECTORY.glob("*.json"))
    examples = [json.loads(file.read_text()) for file in files]
    return [
        (file.stem, example["surface"], example["attempt"])
        for file, example in zip(files, examples, strict=True)
    ]
