# SPDX-License-Identifier: GPL-2.0-or-later
"""Write TAP: the cases that a test program defines, run one after another.

A program decorates its functions with case(), and calls run() with a stage:
whatever the cases share.  A case passes when its function returns; it ends
otherwise by raising Skip (with the reason), Failed (with what is wrong) or any
other exception, which is a fault of the test and prints a traceback.

A case has a bound in seconds that only a hang reaches.  It is kept by SIGALRM,
so cases run in the main thread.  One list of cases per process.

Reading the TAP of other programs is in tapreader.py.
"""

import argparse
import os
import re
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Any, Callable, Iterable, NamedTuple, Protocol

CASE_TIMEOUT_S = 1200


class Skip(Exception):
    """This case cannot run here; the text says why."""


class Failed(Exception):
    """The case ran, and something is not as it must be."""


class CaseTimeout(Exception):
    """A case is not done after its bound."""


Function = Callable[[Any], None]


class Case(NamedTuple):
    name: str
    function: Function
    needs: tuple[str, ...]      # words that the stage understands
    timeout_s: float


class Stage(Protocol):
    """What the cases of a program share; each case gets it as its argument."""

    def begin(self, case: Case) -> None:
        """Before a case; may raise Skip."""

    def run(self, case: Case) -> None:
        """Call case.function(self)."""

    def expected(self, error: Exception) -> bool:
        """Whether an exception's text says what is wrong.

        A traceback is printed for the others.
        """

    def diagnostics(self) -> Iterable[str]:
        """What a reader of a failed case wants to see; after end()."""

    def end(self) -> None:
        """After a case, however it ended; must not raise."""


class PlainStage:
    """A stage that shares nothing; also a base for those that share little."""

    def begin(self, case: Case) -> None:
        pass

    def run(self, case: Case) -> None:
        case.function(self)

    def expected(self, error: Exception) -> bool:
        return False

    def diagnostics(self) -> Iterable[str]:
        return ()

    def end(self) -> None:
        pass


CASES: list[Case] = []


def case(name: str, *needs: str,
         timeout_s: float = CASE_TIMEOUT_S) -> Callable[[Function], Function]:
    """Decorator: the function is the case of that name."""
    def add(function: Function) -> Function:
        if any(other.name == name for other in CASES):
            raise ValueError(f"two cases are named '{name}'")
        CASES.append(Case(name, function, needs, timeout_s))
        return function
    return add


def check(condition: object, text: str) -> None:
    """Raise Failed(text) unless the condition is true."""
    if not condition:
        raise Failed(text)


def comment(text: object) -> None:
    """Lines of TAP that say something and decide nothing."""
    for line in str(text).splitlines() or [""]:
        print("# " + line, flush=True)


# ---------------------------------------------------------------- options

def regex(text: str) -> re.Pattern[str]:
    """A type for argparse."""
    try:
        return re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no regular expression: {e}") from None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that every test program has."""
    parser.add_argument("--only", type=regex, metavar="REGEX",
                        help="run the cases whose name has this in it")
    parser.add_argument("--list", action="store_true",
                        help="print the names of the cases and end")


def chosen_cases(parser: argparse.ArgumentParser,
                 options: argparse.Namespace) -> list[Case]:
    """What --only leaves; ends the program when that is nothing."""
    chosen = [c for c in CASES
              if not options.only or options.only.search(c.name)]
    if not chosen and not CASES:
        parser.error("none of its cases runs with these options")
    if not chosen:
        parser.error(f"no case matches '{options.only.pattern}'; --list names "
                     "them")
    return chosen


# ---------------------------------------------------------------- running

def _on_alarm(signum: int, frame: FrameType | None) -> None:
    raise CaseTimeout()


def _on_term(signum: int, frame: FrameType | None) -> None:
    sys.exit("ended by a signal")


def _place(error: Exception, function: Function) -> str:
    """The line of the case's function at which the error came."""
    for frame in traceback.extract_tb(error.__traceback__):
        if (frame.filename, frame.name) == (function.__code__.co_filename,
                                            function.__name__):
            file = os.path.basename(frame.filename)
            return f"in {frame.name}(), {file}:{frame.lineno}"
    return "before the case"


def _run_case(stage: Stage, number: int, one: Case) -> bool:
    begin = time.monotonic()
    verdict, why = "ok", ""
    try:
        stage.begin(one)
        signal.setitimer(signal.ITIMER_REAL, one.timeout_s)
        stage.run(one)
    except Skip as e:
        why = f" # SKIP {e}"
    except CaseTimeout as e:
        verdict = "not ok"
        comment(f"not done after {one.timeout_s:g} s")
        comment(_place(e, one.function))
    except Exception as e:
        verdict = "not ok"
        if isinstance(e, Failed) or stage.expected(e):
            comment(e)
            comment(_place(e, one.function))
        else:
            comment(traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        stage.end()
    if verdict != "ok":
        for line in stage.diagnostics():
            comment("  " + line)
    print(f"{verdict} {number} - {one.name}{why}", flush=True)
    comment(f"{time.monotonic() - begin:.1f} s")
    return verdict == "ok"


def catch_signals() -> None:
    """SIGTERM ends the program in order, a case's bound raises CaseTimeout."""
    signal.signal(signal.SIGALRM, _on_alarm)
    signal.signal(signal.SIGTERM, _on_term)


def run(stage: Stage, chosen: list[Case], about: Iterable[str] = ()) -> int:
    """Run the cases and print their TAP; how many failed.

    @about: lines to begin with, of what is tested.
    catch_signals() comes before, so that making the stage is covered, too.
    """
    print("TAP version 13")
    print(f"1..{len(chosen)}", flush=True)
    for line in about:
        comment(line)
    failed = sum(not _run_case(stage, number, one)
                 for number, one in enumerate(chosen, 1))
    if failed:
        comment(f"{failed} of {len(chosen)} failed")
    return failed


def main(about: str | None, make_stage: Callable[[], Stage]) -> int:
    """A whole program that has no options of its own; its exit code.

    @about: the program's __doc__.
    """
    parser = argparse.ArgumentParser(
        description=(about or "").split("\n\n", 1)[0])
    add_options(parser)
    options = parser.parse_args()
    chosen = chosen_cases(parser, options)
    if options.list:
        print("\n".join(one.name for one in chosen))
        return 0
    catch_signals()
    return 1 if run(make_stage(), chosen) else 0
