# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong memory is found, and runs that fail are told from those that do not."""

import os
import re
import signal

from bench.gate import Gate
from bench.places import needs_simulation
from bench.results import contenders
from bench.snapshot import (
    change_generated, overwrite, replace, truncate)
from bench.stage import (
    MADE, TINY, TRAPPED, Bench, Done, Result, all_ours, has_guest, has_result,
    load_result, one_sentence)
from tap import case, check


@case("a page that changes behind its back is found to be WRONG")
def wrong_page(bench: Bench) -> None:
    saved, gate = bench.path("wrong.json"), Gate(bench)
    child = bench.start(*TINY, *MADE, "--zero-share", "0", "--repeat", "2",
                        "--contenders", "eager,mmap", "--cache", "warm",
                        *gate.options, "--json", saved)
    gate.wait_for_run(child)        # so the checksums have been taken
    change_generated(bench, child, 1234, 100)
    gate.open()
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    check(re.search(r"WRONG.* 0x4d2000 .*pc\.ram", done.err),
          "stderr does not say which page")
    check("WRONG" in done.out and "FAILED" in done.out,
          "the table does not say so")
    all_ours(done)
    all_wrong(load_result(saved), 2)
    bench.nothing_left()


def all_wrong(result: Result, repeat: int) -> None:
    """Check that every run of every contender found wrong memory."""
    for c in contenders(result):
        check(c["failed_count"] == repeat and "WRONG" in c["errors"][0],
              f"{c['label']}: {c['failed_count']} failed: {c['errors']}")


@case("lazy contenders are verified as well, cold")
def wrong_page_lazily(bench: Bench) -> None:
    saved, gate = bench.path("wrong.json"), Gate(bench)
    child = bench.start(*TINY, *MADE, "--zero-share", "0", "--contenders",
                        ",".join(TRAPPED), "--cache", "cold", "--direct",
                        "off", *gate.options, "--json", saved)
    gate.wait_for_run(child)
    change_generated(bench, child, 777, 4000)
    gate.open()
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    all_wrong(load_result(saved), 1)


def is_told_to_change(done: Done, result: Result) -> None:
    """Check that the snapshot's change is told, and no contender failed."""
    one_sentence(done, 1, r"changed while it was measured: nothing that "
                 r"was measured after \d\d:\d\d:\d\d counts")
    check(not any(c["failed_count"] for c in contenders(result)),
          "a contender is blamed")


@case("a snapshot that changes ends it, and no contender is blamed")
def snapshot_changes(bench: Bench) -> None:
    for change in overwrite, replace:
        path = bench.generated("--size", "8M", "--zero-share", "0")
        saved, gate = bench.path("changed.json"), Gate(bench)
        child = bench.start(*TINY, "--snapshot", path, "--repeat", "2",
                            "--contenders", "eager,fastload", "--cache",
                            "warm", *gate.options, "--json", saved)
        gate.wait(child)
        while not has_result(saved):
            gate.let_pass()
            gate.wait(child)
        change(bench, path)
        gate.open()
        done, result = bench.finish(child), load_result(saved)
        is_told_to_change(done, result)
        for c in contenders(result):
            check(c["run_count"] > 0, "what was measured before is gone")


@case("the same when it is read through simulated storage")
def snapshot_changes_behind(bench: Bench) -> None:
    needs_simulation(bench)
    for change in overwrite, truncate:
        path = bench.generated("--size", "8M", "--zero-share", "0")
        saved, gate = bench.path("changed.json"), Gate(bench)
        # The storage has answered no read when the file changes.
        child = bench.start(*TINY, "--snapshot", path, "--contenders",
                            "fastload", "--cache", "warm", "--direct", "on",
                            "--storage", "rtt=10s", *gate.options, "--json",
                            saved)
        gate.wait_for_run(child)
        gate.let_pass()                 # that was null's
        gate.wait(child)
        gate.open()
        bench.wait_for("guest", child,
                       lambda: any(map(has_guest, bench.processes())))
        change(bench, path)
        is_told_to_change(bench.finish(child), load_result(saved))


@case("a run that is killed has failed, and the others go on")
def killed_run_has_failed(bench: Bench) -> None:
    saved, gate = bench.path("killed.json"), Gate(bench)
    child = bench.start(*TINY, *MADE, "--cache", "warm", "--contenders",
                        "eager", *gate.options, "--json", saved)
    gate.wait_for_run(child)
    os.kill(bench.child_of(child), signal.SIGKILL)
    gate.open()
    done = bench.finish(child)
    one_sentence(done, 1, r"null: ended by signal 9")
    check("FAILED 1 time" in done.out, "the table does not say so")
    found = {c["label"]: (c["run_count"], c["failed_count"])
             for c in contenders(load_result(saved))}
    check(found == {"null": (0, 1), "eager": (1, 0)}, f"counts: {found}")
    bench.nothing_left()


@case("a run that takes longer than --timeout is killed and has failed")
def late_run_has_failed(bench: Bench) -> None:
    saved = bench.path("late.json")
    done = bench.raw(*TINY, *MADE, "--timeout", "1", "--think", "100ms",
                     "--working-set", "8M", "--cache", "warm",
                     "--contenders", "null", "--json", saved)
    one_sentence(done, 1, r"null: not done after 1 s: killed; --timeout")
    found = contenders(load_result(saved))[0]
    check(found["failed_count"] == 1 and found["run_count"] == 0 and
          "not done" in found["errors"][0], f"the result has {found}")
    check("FAILED 1 time" in done.out, "the table does not say so")
    bench.nothing_left()
