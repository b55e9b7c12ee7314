# SPDX-License-Identifier: GPL-2.0-or-later
"""How far a run is: a bar on a terminal, and else a line now and then."""

from bench.gate import Gate
from bench.stage import MADE, PROGRESS, TINY, Bench
from bench.terminal import (
    WIDTHS, bars, held_until, on_terminal, set_columns)
from tap import case, check


@case("without a terminal a good run has at most a line of progress in 10 s")
def stderr_is_quiet(bench: Bench) -> None:
    check(bench.everything().done.err == "", "stderr has something else")


@case("without a terminal a long run says how far it is")
def long_run_says_how_far(bench: Bench) -> None:
    done = bench.good(*TINY, *MADE, "--cache", "warm", "--contenders", "null",
                      "--window", "10500ms")
    check("fastload-bench: warm, round 1 of 1: 0 of 1 runs\n" in
          done.progress, f"it says {done.progress}")


@case("a terminal gets a progress bar, and at the end its line is cleared")
def terminal_gets_bar(bench: Bench) -> None:
    gate = Gate(bench)
    # Without the gate a run may end before its bar is drawn.
    code, out, said = on_terminal(
        bench, *TINY, *MADE, "--cache", "warm", "--contenders", "eager,mmap",
        *gate.options, on_turn=held_until(
            gate, "", "null, warm, round 1",
            r"\[[#.]{10,}\] +1/3, [^\r]*eager, warm, round 1"))
    check(code == 0, f"exit code {code}")
    check(gate.is_open, "no bar is there")
    check(said.endswith("\r\033[K"), "the last line is not cleared")
    check("\n" not in said, "more than one line was written")
    check("\033" not in out and "\r" not in out, "stdout has some of it")


@case("the progress bar is never wider than the terminal")
def progress_fits(bench: Bench) -> None:
    for columns in WIDTHS:
        gate = Gate(bench)
        # A narrow terminal shows the counts alone.
        whole = "{}/5" if columns >= 30 else r"\033\[K{}/5\r"
        code, _, said = on_terminal(
            bench, *TINY, "--size", "1M", "--cache", "warm", "--contenders",
            "fastload", "--threads", "1,2", "--io", "auto,preadv", "--direct",
            "on", *gate.options, columns=columns, on_turn=held_until(
                gate, "", whole.format(0), whole.format(1)))
        check(code == 0, f"exit code {code}")
        check(gate.is_open, f"{columns} columns: there is no bar")
        check("\n" not in said, f"{columns} columns: more than one line")
        widest = max(bars(said), key=len)
        check(len(widest) < columns,
              f"{len(widest)} of {columns} columns: {widest!r}")


@case("the progress bar follows the terminal when that becomes narrower")
def progress_follows(bench: Bench) -> None:
    gate = Gate(bench)
    steps = ["pass", "narrow", "open"]
    wide_count = 0

    def on_turn(said: str, terminal: int) -> None:
        """Make it narrower while a run is held, then wait for more bars."""
        nonlocal wide_count
        if not steps or not gate.has_somebody():
            return
        count = len(bars(said))
        if steps[0] == "pass":
            gate.let_pass()
        elif steps[0] == "narrow" and count and len(bars(said)[-1]) >= 35:
            set_columns(terminal, 35)
            wide_count = count
        elif steps[0] == "open" and count >= wide_count + 3:
            gate.open()
        else:
            return
        steps.pop(0)

    code, _, said = on_terminal(
        bench, *TINY, *MADE, "--cache", "warm", "--contenders", "eager",
        *gate.options, columns=100, on_turn=on_turn)
    check(code == 0, f"exit code {code}")
    widths = [len(bar) for bar in bars(said)]
    # The first bar after the change may still be a wide one.
    check(gate.is_open and max(widths[wide_count + 1:]) < 35,
          f"the bars have {widths} columns, the last since {wide_count} 35")
    check("\n" not in said, "more than one line was written")


@case("a terminal that cannot clear a line gets no progress bar")
def progress_on_dumb(bench: Bench) -> None:
    code, _, said = on_terminal(bench, *TINY, *MADE, "--cache", "warm",
                                "--contenders", "eager", term="dumb")
    check(code == 0, f"exit code {code}")
    check(not PROGRESS.sub("", said.replace("\r\n", "\n")),
          f"it says {said!r}")
