# SPDX-License-Identifier: GPL-2.0-or-later
"""Read the TAP of other programs, and count what their cases came to.

Score counts; Tap reads one program line by line into a score.  Nothing that was
to run passes by not running: a program without cases, without a plan, with
fewer cases than it planned, or that ends badly is a failure.

Writing TAP is in tap.py.
"""

import re
from collections.abc import Callable, Iterable

REASON_CHARS = 300          # of a failed case's comments
LINES_SHOWN = 80            # of a program that failed as a whole
LINES_BEFORE = 20           # each case that failed
LINES_AFTER = 2

CASE = re.compile(r"(not )?ok\b *(\d*) *(?:- )?(.*?)"
                  r"(?:\s+#\s*(SKIP|TODO)\b *(.*))?$", re.I)
DURATION = re.compile(r"# [\d.]+ s$")        # of the case before it
PLAN = re.compile(r"1\.\.(\d+)(?:\s*#\s*(?:SKIP)?\s*(.*))?$", re.I)


def lines_that_matter(lines: list[str]) -> list[str]:
    """What stands around the failed cases, or the end when none failed."""
    failed = [i for i, line in enumerate(lines) if line.startswith("not ok")]
    if not failed:
        return lines[-LINES_SHOWN:]
    wanted = {j for i in failed
              for j in range(i - LINES_BEFORE, i + LINES_AFTER + 1)}
    return [line for i, line in enumerate(lines) if i in wanted]


class Score:
    """How many cases passed, failed and were skipped, and which failed."""

    def __init__(self) -> None:
        self.passed = 0
        self.skipped = 0
        self.failures: list[str] = []       # what to say of each

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def seen(self) -> int:
        return self.passed + self.failed + self.skipped

    def fail(self, text: str) -> None:
        self.failures.append(text)

    def add(self, other: "Score") -> None:
        self.passed += other.passed
        self.skipped += other.skipped
        self.failures += other.failures

    def line(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        return text + (f", {self.skipped} skipped" if self.skipped else "")

    def ending(self) -> list[str]:
        """The last lines of all output: what failed, and the numbers."""
        failures = [f"    {text}" for text in self.failures]
        return [*(["--- failed"] if failures else []), *failures, self.line()]

    def exit_code(self) -> int:
        """Of the program that prints the line: nothing passed is no success."""
        return 1 if self.failures or not self.passed else 0


class Tap:
    """Reads the TAP of one program.

    @name: comes before the name of each failed case.
    @each: called for each case with its verdict ("passed", "failed" or
           "skipped"), its name, and the reason of a skip or "".
    """

    def __init__(self, name: str,
                 each: Callable[[str, str, str], None]) -> None:
        self.name = name
        self.each = each
        self.score = Score()
        self._planned: int | None = None
        self._whole_skip: str | None = None
        self._comments: list[str] = []      # since the last case

    def feed(self, line: str) -> None:
        line = line.rstrip("\n")
        plan = PLAN.match(line)
        case = CASE.match(line)
        if plan:
            self._planned = int(plan[1])
            if self._planned == 0 and plan[2]:
                self._whole_skip = plan[2]
        elif line.startswith("Bail out!"):
            self._failed(line)
        elif case:
            self._case(case)
        elif line.startswith("# ") and not DURATION.match(line):
            self._comments.append(line[2:])

    def _case(self, case: re.Match[str]) -> None:
        bad, number, name, word, why = case.groups()
        name = name or f"case {number}"
        if word and (word.upper() == "SKIP" or bad):
            self._skipped(name, why or "no reason given")
        elif bad:
            self._failed(name, " | ".join(self._comments)[:REASON_CHARS])
        else:
            self.score.passed += 1
            self.each("passed", name, "")
        self._comments = []

    def _failed(self, name: str, reason: str = "") -> None:
        self.score.fail(f"{self.name}: {name}" +
                        (f" ({reason})" if reason else ""))
        self.each("failed", name, "")

    def _skipped(self, name: str, reason: str) -> None:
        self.score.skipped += 1
        self.each("skipped", name, reason)

    def finish(self, trouble: str | None) -> bool:
        """The program ended; whether all is well.

        @trouble: what was wrong with its end, or None.
        """
        score = self.score
        if self._whole_skip is not None and not score.seen and not trouble:
            self._skipped("all", self._whole_skip)
        elif trouble and not score.failed:
            self._failed(trouble)
        elif not score.seen:
            self._failed("no test case was run")
        elif self._planned is None:
            self._failed("no plan was printed")
        elif self._planned != score.seen and not score.failed:
            self._failed(f"{self._planned} cases were planned, {score.seen} "
                         "were seen")
        return not score.failed


def read(name: str, lines: Iterable[str], trouble: str | None,
         each: Callable[[str, str, str], None]) -> Tap:
    """The TAP of a program that has ended already."""
    tap = Tap(name, each)
    for line in lines:
        tap.feed(line)
    tap.finish(trouble)
    return tap
