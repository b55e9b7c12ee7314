# SPDX-License-Identifier: GPL-2.0-or-later
"""What a result holds, as --json writes it."""

import re
from typing import Any, Iterable

from bench.stage import Bench, Result
from tap import Skip, check


def scenarios(result: Result) -> list[dict[str, Any]]:
    return [s for work in result["works"] for s in work["scenarios"]]


def contenders(result: Result) -> list[dict[str, Any]]:
    return [c for s in scenarios(result) for c in s["contenders"]]


def all_counted(result: Result, repeat: int) -> None:
    """Check that no run has failed, and none is missing."""
    for c in contenders(result):
        check(c["failed_count"] == 0 and not c["errors"],
              f"{c['label']} failed: {c['errors']}")
        check(c["run_count"] == repeat,
              f"{c['label']} ran {c['run_count']} times, not {repeat}")


def check_names(result: Result, names: Iterable[str]) -> None:
    """Check that each scenario has these contenders, and no others."""
    for s in scenarios(result):
        found = [c["label"] for c in s["contenders"]]
        check(sorted(found) == sorted(names),
              f"contenders are {found}, not {sorted(names)}")


def has_note(scenario: dict[str, Any], pattern: str) -> bool:
    return any(re.search(pattern, note) for note in scenario["notes"])


def on_disk(bench: Bench, result: Result) -> None:
    """Skip where the snapshot was in memory."""
    if result["environment"].get("filesystem") in ("tmpfs", "ramfs"):
        raise Skip(f"{bench.temporary} is in memory: nothing there is cold")


def measured_as(rounds: list[float]) -> dict[str, Any]:
    """A measure of a result, made up of rounds."""
    low, high = sorted(rounds)[(len(rounds) - 1) // 2], \
        sorted(rounds)[len(rounds) // 2]
    return {"median": (low + high) / 2, "min": min(rounds),
            "max": max(rounds), "ratio": 1, "rounds": rounds}
