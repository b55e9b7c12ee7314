# SPDX-License-Identifier: GPL-2.0-or-later
"""tools/fastload-bench/reading-ahead: its rows, and what it writes."""

import json
import os
from pathlib import Path
from typing import Any

from bench.places import needs_simulation
from bench.stage import Bench, Done
from tap import Skip, case, check

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "fastload-bench" / \
    "reading-ahead"


def ahead(bench: Bench, *words: object, **options: Any) -> Done:
    child = bench.spawn([SCRIPT, "--build", bench.program.parents[2], "--dir",
                         bench.temporary, "--rounds", "1", "--divide", "32",
                         *words], **options)
    return bench.finish(child)


@case("reading-ahead prints the rows that were asked for, with controls")
def rows_are_measured(bench: Bench) -> None:
    needs_simulation(bench)
    path = bench.path("ahead.json")
    done = ahead(bench, "--row", "file, 1 ms.*(rate|first read fast)",
                 "--json", path)
    check(not done.code, f"exit code {done.code}")
    found = json.loads(path.read_text())
    check([row["error"] for row in found["rows"]] == [None] * 2,
          f"other rows, or without figures: {found['rows']}")
    for row in found["rows"]:
        check(row["least"] <= row["value"] <= row["most"] and row["control"],
              f"no figure: {row}")
        check("| " + " | ".join(row["texts"]) + " |\n" in done.out,
              "a row that is not printed")
    check(len(found["commands"]) == 1, f"it ran {found['commands']}")
    check(found["commands"][0] in done.out, "its command is not printed")


@case("reading-ahead counts the system calls of a fault")
def calls_are_counted(bench: Bench) -> None:
    path = bench.path("ahead.json")
    # A build with AddressSanitizer looks for leaks when it ends, and calls
    # sched_yield() some thousand times while it waits for that.
    done = ahead(bench, "--row", "calls a fault, warm", "--json", path,
                 env={**os.environ, "LSAN_OPTIONS": "detect_leaks=0"})
    row = json.loads(path.read_text())["rows"][0]
    if row["error"]:
        check(done.code == 1, f"not measured, and exit code {done.code}")
        raise Skip(row["error"])
    # To answer a fault takes two calls: read its message, place its page.
    check(2 <= row["value"] < 100, f"{row['value']} system calls")


@case("reading-ahead names its rows, and refuses a pattern that matches none")
def rows_are_named(bench: Bench) -> None:
    names = ahead(bench, "--list").out.splitlines()
    check(len(names) > 30 and len(names) == len(set(names)),
          f"{len(names)} rows")
    done = ahead(bench, "--row", "no such row")
    check(done.code == 2 and not done.out, f"exit code {done.code}")
    check("no such row" in done.err and names[0] in done.err, done.err)
