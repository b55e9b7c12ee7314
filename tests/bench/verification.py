# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong memory is found, and a run that fails is told from one that did."""

import os
import re
import signal
import time

from bench.places import needs_simulation
from bench.results import contenders
from bench.snapshot import (
    change_generated, overwrite, replace, truncate)
from bench.stage import (
    MADE, POLL_S, TINY, TRAPPED, Bench, all_ours, load_result, one_sentence)
from tap import case, check

FULL_RUN_PROCESSES = 4      # when so many were seen, null's run is done


@case("a page that changes behind its back is found to be WRONG")
def wrong_page(bench: Bench) -> None:
    saved = bench.path("wrong.json")
    child = bench.start(*TINY, *MADE, "--zero-share", "0", "--repeat", "15",
                        "--contenders", "eager,mmap", "--cache", "warm",
                        "--json", saved)
    bench.child_of(child)           # so the checksums have been taken
    change_generated(bench, child, 1234, 100)
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    check(re.search(r"WRONG.* 0x4d2000 .*pc\.ram", done.err),
          "stderr does not say which page")
    check("WRONG" in done.out and "FAILED" in done.out,
          "the table does not say so")
    all_ours(done)
    for c in contenders(load_result(saved)):
        check(c["failed_count"] >= 10 and "WRONG" in c["errors"][0],
              f"{c['label']}: {c['failed_count']} failed: {c['errors']}")
    bench.nothing_left()


@case("lazy contenders are verified as well, cold")
def wrong_page_lazily(bench: Bench) -> None:
    saved = bench.path("wrong.json")
    child = bench.start(*TINY, *MADE, "--zero-share", "0", "--repeat", "6",
                        "--contenders", ",".join(TRAPPED), "--cache", "cold",
                        "--direct", "off", "--json", saved)
    bench.child_of(child)
    change_generated(bench, child, 777, 4000)
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    for c in contenders(load_result(saved)):
        check(c["failed_count"] >= 4 and "WRONG" in c["errors"][0],
              f"{c['label']}: {c['failed_count']} failed: {c['errors']}")


@case("a snapshot that changes ends it, and no contender is blamed")
def snapshot_changes(bench: Bench) -> None:
    for change in overwrite, replace:
        path = bench.generated("--size", "8M", "--zero-share", "0")
        saved = bench.path("changed.json")
        child = bench.start(*TINY, "--snapshot", path, "--repeat", "200",
                            "--contenders", "eager,fastload", "--cache",
                            "warm", "--json", saved)
        seen: set[int] = set()
        while len(seen) < FULL_RUN_PROCESSES:
            seen.add(bench.child_of(child))
            time.sleep(POLL_S)
        change(bench, path)
        done = bench.finish(child)
        one_sentence(done, 1, r"changed while it was measured: nothing that "
                     r"was measured after \d\d:\d\d:\d\d counts")
        found = contenders(load_result(saved))
        check(not any(c["failed_count"] for c in found), "one is blamed")
        check(found[0]["run_count"] > 0, "what was measured before is gone")


@case("the same when it is read through simulated storage")
def snapshot_changes_behind(bench: Bench) -> None:
    needs_simulation(bench)
    for change in overwrite, truncate:
        path = bench.generated("--size", "8M", "--zero-share", "0")
        saved = bench.path("changed.json")
        child = bench.start(*TINY, "--snapshot", path, "--repeat", "200",
                            "--contenders", "eager,fastload", "--cache",
                            "cold", "--storage", "ssd", "--json", saved)
        # It, a server that tries, the server, and so many runs.
        seen: set[int] = set()
        while len(seen) < FULL_RUN_PROCESSES + 3:
            seen.update(bench.processes())
            check(child.poll() is None, "it has ended")
            time.sleep(POLL_S)
        change(bench, path)
        done = bench.finish(child)
        one_sentence(done, 1, r"changed while it was measured: nothing that "
                     r"was measured after \d\d:\d\d:\d\d counts")
        found = contenders(load_result(saved))
        check(not any(c["failed_count"] for c in found), "one is blamed")


@case("a run that is killed has failed, and the others go on")
def killed_run_has_failed(bench: Bench) -> None:
    saved = bench.path("killed.json")
    child = bench.start(*TINY, *MADE, "--window", "500ms", "--cache", "warm",
                        "--contenders", "eager", "--json", saved)
    os.kill(bench.child_of(child), signal.SIGKILL)
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
