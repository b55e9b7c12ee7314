# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a run is: a bar on a terminal, and else a line now and then."""

import re

from bench.stage import MADE, PROGRESS, TINY, Bench
from bench.terminal import WIDTHS, bars, on_terminal
from tap import case, check


@case("without a terminal a good run has at most a line of progress in 10 s")
def stderr_is_quiet(bench: Bench) -> None:
    check(bench.everything().done.err == "", "stderr has something else")


@case("without a terminal a long run says how far it is")
def long_run_says_how_far(bench: Bench) -> None:
    done = bench.good(*TINY, *MADE, "--cache", "warm", "--contenders", "null",
                      "--window", "10500ms")
    check(re.fullmatch(r"fastload-bench: warm, round 1 of 1: 0 of 1 runs\n",
                       done.progress[0] if done.progress else ""),
          f"it says {done.progress}")


@case("a terminal gets a progress bar, and at the end its line is cleared")
def terminal_gets_bar(bench: Bench) -> None:
    code, out, said = on_terminal(bench, *TINY, *MADE, "--cache", "warm",
                                  "--contenders", "eager,mmap")
    check(code == 0, f"exit code {code}")
    check(re.search(r"\[[#.]{10,}\] +\d+/3 .*eager, warm, round 1", said),
          "no bar is there")
    check(said.endswith("\r\033[K"), "the last line is not cleared")
    check("\n" not in said, "more than one line was written")
    check("\033" not in out and "\r" not in out, "stdout has some of it")


@case("the progress bar is never wider than the terminal")
def progress_fits(bench: Bench) -> None:
    for columns in WIDTHS:
        code, _, said = on_terminal(
            bench, *TINY, *MADE, "--cache", "cold", "--contenders",
            "fastload", "--threads", "1,2", "--io", "auto,preadv", "--direct",
            "on", columns=columns)
        check(code == 0, f"exit code {code}")
        check("\n" not in said, f"{columns} columns: more than one line")
        widest = max(bars(said), key=len)
        check(len(widest) < columns,
              f"{len(widest)} of {columns} columns: {widest!r}")
        check(re.search(r"\d/5" if columns >= 30 else r"^\d/5$",
                        bars(said)[-1]),
              f"{columns} columns: {bars(said)[-1]!r}")


@case("the progress bar follows the terminal when that becomes narrower")
def progress_follows(bench: Bench) -> None:
    code, _, said = on_terminal(
        bench, *TINY, *MADE, "--cache", "warm", "--contenders", "eager",
        "--window", "500ms", columns=100, later_columns=35)
    check(code == 0, f"exit code {code}")
    check(len(bars(said)[-1]) < 35, f"the last line is {bars(said)[-1]!r}")
    check("\n" not in said, "more than one line was written")


@case("a terminal that cannot clear a line gets no progress bar")
def progress_on_dumb(bench: Bench) -> None:
    code, _, said = on_terminal(bench, *TINY, *MADE, "--cache", "warm",
                                "--contenders", "eager", term="dumb")
    check(code == 0, f"exit code {code}")
    check(not PROGRESS.sub("", said.replace("\r\n", "\n")),
          f"it says {said!r}")
