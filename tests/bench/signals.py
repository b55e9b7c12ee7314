# SPDX-License-Identifier: GPL-2.0-or-later
"""What a signal ends, what it leaves, and what is shown all the same."""

import os
import re
import signal

from bench.results import contenders
from bench.snapshot import generated_by
from bench.stage import (
    ENDLESS, MADE, TINY, Bench, has_result, load_result, one_sentence,
    parent_of)
from bench.terminal import has_times, table_of
from tap import case, check


def interrupt(bench: Bench, number: signal.Signals, is_group: bool,
              is_shown_again: bool = False) -> None:
    """End a run by a signal when at least one round is done."""
    saved = bench.path("interrupted.json")
    child = bench.start(*TINY, *MADE, "--repeat", "1000", "--cache", "warm",
                        "--contenders", "fastload", "--json", saved)
    bench.wait_for("round", child, lambda: has_result(saved))
    if is_group:
        os.killpg(child.pid, number)
    else:
        child.send_signal(number)
    done = bench.finish(child)
    if is_shown_again:
        again = bench.good("report", saved, "--html", bench.path("page.html"))
        check(again.out == table_of(done), "the tables differ")
    check(done.code == 130, f"exit code {done.code}, not 130")
    check(done.err == "", f"stderr has {done.err!r}")
    check("INTERRUPTED" in done.out, "the table does not say so")
    check(re.search(r"^  null {4,}", done.out, re.M), "no row for null")
    result = load_result(saved)
    check(result["interrupted"] is True, "the result does not say so")
    for c in contenders(result):
        check(not c["failed_count"], f"{c['label']} failed: {c['errors']}")
    bench.nothing_left()


@case("Ctrl-C ends it with what it has, and nothing is left")
def ctrl_c_ends_it(bench: Bench) -> None:
    interrupt(bench, signal.SIGINT, True)


@case("SIGINT to it alone does the same")
def sigint_alone_ends_it(bench: Bench) -> None:
    interrupt(bench, signal.SIGINT, False)


@case("SIGTERM does the same")
def sigterm_ends_it(bench: Bench) -> None:
    interrupt(bench, signal.SIGTERM, False)


@case("an interrupted result can be shown again")
def interrupted_is_shown_again(bench: Bench) -> None:
    interrupt(bench, signal.SIGINT, False, is_shown_again=True)


@case("interrupted before anything was measured, results stay as they were")
def interrupted_before_anything(bench: Bench) -> None:
    saved = bench.path("kept.json")
    saved.write_text("precious")
    child = bench.start(*TINY, *MADE, *ENDLESS, "--cache", "warm",
                        "--json", saved)
    bench.child_of(child)
    child.send_signal(signal.SIGINT)
    done = bench.finish(child)
    one_sentence(done, 130, "before anything was measured")
    check(saved.read_text() == "precious", "the file was overwritten")
    bench.nothing_left()


@case("SIGKILL leaves the rounds that were done, and report shows them")
def killed_after_rounds(bench: Bench) -> None:
    saved = bench.path("rounds.json")
    child = bench.start(*TINY, *MADE, "--repeat", "1000", "--cache", "warm",
                        "--contenders", "eager", "--json", saved)
    bench.wait_for("round", child, lambda: has_result(saved))
    child.kill()
    bench.finish(child)
    result = load_result(saved)
    check(result["interrupted"] is True, "the result does not say so")
    for c in contenders(result):
        check(0 < c["run_count"] < 1000, f"{c['label']} has {c['run_count']}")
    done = bench.good("report", saved)
    check("INTERRUPTED" in done.out and has_times(done.out, "eager"),
          "report does not show it")
    bench.nothing_left()


@case("a handler's process ends with its run, however that ends")
def handler_ends(bench: Bench) -> None:
    child = bench.start(*TINY, *MADE, *ENDLESS, "--cache", "warm",
                        "--contenders", "handler")
    null = bench.child_of(child)
    os.kill(null, signal.SIGKILL)
    run = bench.child_of(child, other=null)
    bench.wait_for("handler", child, lambda: any(
        parent_of(pid) == run for pid in bench.processes()))
    os.kill(run, signal.SIGKILL)
    done = bench.finish(child)
    check(done.code == 1, f"exit code {done.code}, not 1")
    check(re.search("handler: ended by signal 9", done.err),
          f"stderr has {done.err!r}")
    bench.nothing_left()


@case("SIGKILL leaves no process and no file")
def sigkill_leaves_nothing(bench: Bench) -> None:
    child = bench.start(*TINY, *MADE, *ENDLESS, "--cache", "warm",
                        "--contenders", "fastload")
    bench.child_of(child)
    child.kill()
    done = bench.finish(child)
    check(done.code == -signal.SIGKILL, f"exit code {done.code}")
    bench.nothing_left()


@case("a signal while it generates ends it at once, and nothing is left")
def signal_while_generating(bench: Bench) -> None:
    saved = bench.path("early.json")
    # Generating takes seconds, so it is under way when the signal comes.
    child = bench.start(*TINY, "--size", "4G", "--zero-share", "0", "--json",
                        saved)
    bench.wait_for("snapshot", child, lambda: generated_by(bench, child))
    child.send_signal(signal.SIGTERM)
    done = bench.finish(child)
    one_sentence(done, 130, "stopped")
    bench.nothing_left()
    check(not saved.exists() or saved.stat().st_size == 0, "it has a result")
