# SPDX-License-Identifier: GPL-2.0-or-later
"""Several processes that restore one file at once."""

import os
import re
import signal

from bench.results import all_counted, check_names, contenders
from bench.snapshot import change_generated
from bench.stage import ENDLESS, LABELS, MADE, TINY, Bench, Child, load_result
from tap import case, check


@case("clones of every contender restore the same file at once")
def clones_at_once(bench: Bench) -> None:
    path = bench.path("clones.json")
    done = bench.good(*TINY, *MADE, "--clones", "3", "--json", path)
    result = load_result(path)
    check_names(result, LABELS)
    all_counted(result, 1)
    data = result["works"][0]["snapshot"]["data_bytes"]
    for c in contenders(result):
        clones = c["clones"]
        check(clones["count"] == 3, f"{c['label']}: {clones}")
        for name in "run_ns", "work_ns", "load_ns":
            one, both = c["measures"][name], clones[name]
            check((both["p50"] is None) == (both["p95"] is None) and
                  (both["p50"] or 0) <= (both["p95"] or 0),
                  f"{c['label']}: {name} {both}")
            check(not one or one["median"] <= both["p95"],
                  f"{c['label']}: {name} {one} and {both}")
        check(clones["pss_bytes"] > 0, f"{c['label']}: {clones}")
        if c["name"].startswith("eager"):
            # Each clone has private memory.
            check(clones["pss_bytes"] > 2 * data, f"eager: {clones}")
        if c["name"] == "mmap-ahead":
            # Clones share the page cache but for pages that the guest wrote.
            check(clones["pss_bytes"] < 2 * data, f"{c['label']}: {clones}")
    check(done.out.count("  CLONES ") == 2, "the table has no part for them")
    for c in contenders(bench.everything().result):
        check("clones" not in c, f"{c['label']} alone has {c.get('clones')}")


# Two scenarios: the runs of the first go on until the test ends them.
HELD = (*TINY, *MADE, *ENDLESS, "--contenders", "eager", "--cache", "warm",
        "--also", "window=5ms")


def end_held_runs(bench: Bench, child: Child, clones: int) -> None:
    """Kill one clone of null; when those of eager run, kill one of them."""
    seen: set[int] = set()
    for _ in "null", "eager":
        def new_ones() -> set[int]:
            found = bench.children_of(child) - seen
            return found if len(found) == clones else set()
        run = bench.wait_for(f"run of {clones} clones", child, new_ones)
        os.kill(min(run), signal.SIGKILL)
        seen |= run


@case("each of the clones is verified")
def clones_are_verified(bench: Bench) -> None:
    child = bench.start(*HELD, "--zero-share", "0", "--clones", "2")
    bench.child_of(child)           # so the checksums have been taken
    change_generated(bench, child, 1234, 100)
    end_held_runs(bench, child, 2)
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    check(re.search(r"eager: .*WRONG.* 0x4d2000 ", done.err), "it is not WRONG")


@case("when one of the clones ends, the others end, and the run has failed")
def clone_ends(bench: Bench) -> None:
    saved = bench.path("clones.json")
    child = bench.start(*HELD, "--clones", "3", "--json", saved)
    end_held_runs(bench, child, 3)
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    for name, line in zip(("null", "eager"), done.err.splitlines(),
                          strict=True):
        check(f"{name}: ended by signal 9" in line, f"it says {line!r}")
    found = [(c["run_count"], c["failed_count"])
             for c in contenders(load_result(saved))]
    check(found == [(0, 1), (0, 1), (1, 0), (1, 0)], f"counts: {found}")
    bench.nothing_left()


@case("refused: more clones than memory has room for")
def too_many_clones(bench: Bench) -> None:
    bench.refused(2, r"--size: 256 guests of 1048576 MiB.*memory", *TINY,
                  "--size", "1T", "--clones", "1,256")
