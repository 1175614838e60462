"""Fuzzing of both servers for FUZZ_SECONDS, an hour by default: ``make fuzz``."""

import asyncio
import ctypes
import gc
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from random import SystemRandom
from typing import Any

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.ground import Ground, ground
from tests.fuzz.surfaces import Finding, Surface, all_surfaces, check
from tests.leak_guard import pytest_configure as hear_leaks
from tests.postgres import PostgresCluster

_EXAMPLES = 100
# A limit: once a server is down, each further example is a finding.
_MOST_FINDINGS = 20
# Bytes: the most that memory may grow after the first round.
_MOST_GROWTH = 150_000_000
_MOST_BLOCK = 0.1
_FINDINGS = Path("fuzz-findings")


def main() -> int:
    """Fuzz, print the counts and the findings, and return the exit code."""
    seconds = float(os.environ.get("FUZZ_SECONDS", "3600"))
    only = os.environ.get("FUZZ_ONLY", "")
    hear_leaks()
    findings: list[str] = []
    counts: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0])
    with tempfile.TemporaryDirectory(
        prefix="pipesync-fuzz-", ignore_cleanup_errors=True
    ) as directory:
        cluster = PostgresCluster(Path(directory) / "postgres")
        try:
            asyncio.run(cluster.trade_durability_for_speed())
            with ground(cluster, Path(directory) / "service") as made:
                surfaces = [one for one in all_surfaces(made.routes) if one.name.startswith(only)]
                until = time.monotonic() + seconds
                first = last = 0
                while time.monotonic() < until and len(findings) < _MOST_FINDINGS:
                    for surface in surfaces:
                        if time.monotonic() < until and len(findings) < _MOST_FINDINGS:
                            _fuzz(made, surface, counts[surface.name], until, findings)
                    last = _memory()
                    first = first or last
                _say(f"memory: {first / 1e6:.0f} MB after a round, {last / 1e6:.0f} MB at the end")
                if last > first + _MOST_GROWTH:
                    findings.append("memory did not come back")
        finally:
            cluster.stop()
    _print(counts)
    for finding in findings:
        _say(f"\n{finding}")
    _say(f"\n{len(findings)} findings")
    return 1 if findings else 0


def _fuzz(
    made: Ground, surface: Surface, count: list[float], until: float, findings: list[str]
) -> None:
    number = SystemRandom().getrandbits(32)
    failed: list[tuple[Any, Exception]] = []

    @seed(number)
    @settings(
        max_examples=_EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.attempts)
    def one(attempt: Any) -> None:
        if time.monotonic() > until:
            return
        count[0] += 1
        try:
            check(made, surface, attempt, most_block=_MOST_BLOCK)
        except Exception as error:
            failed.append((attempt, error))
            raise

    # The servers share this process, and its heap would keep them longer than any request does.
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    began = time.monotonic()
    try:
        one()
    except Exception as raised:
        _FINDINGS.mkdir(exist_ok=True)
        # The last attempt is the smallest; hypothesis raises another error where it cannot
        # reproduce one.
        attempt, error = failed[-1] if failed else (None, raised)
        kind = "finding" if isinstance(error, Finding) else "failure"
        file = _FINDINGS / f"{surface.name.replace(' ', '-').replace('/', '-')}-{number}.json"
        file.write_text(json.dumps({"surface": surface.name, "attempt": attempt}, indent=1) + "\n")
        text = f"{kind} at {surface.name}, in {file}:\n{type(error).__name__}: {str(error)[:6000]}"
        _say(text)
        findings.append(text)
    finally:
        count[1] += time.monotonic() - began


def _memory() -> int:
    gc.unfreeze()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    resident: int = psutil.Process().memory_info().rss
    return resident


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _print(counts: dict[str, list[float]]) -> None:
    _say(f"{'surface':40} {'examples':>9} {'a second':>9}")
    for name, (number, seconds) in counts.items():
        _say(f"{name:40} {int(number):9} {number / max(seconds, 1e-9):9.1f}")
    total = sum(number for number, _ in counts.values())
    _say(f"{'all':40} {int(total):9}")


if __name__ == "__main__":
    sys.exit(main())
