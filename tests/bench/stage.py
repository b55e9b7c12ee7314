# SPDX-License-Identifier: GPL-2.0-or-later
"""The program under test, a folder for it, and what it has said in a case."""

import contextlib
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import time
from typing import (
    Any, Callable, Iterable, Iterator, NamedTuple, Sequence, TypeVar)

from tap import Case, Failed, PlainStage, check

HANG_S = 500                # only a hang needs more; a case has longer
POLL_S = 0.005
SHOWN_RUNS = 2              # of a case that failed
SHOWN_LINES = 20            # of each of them
PROGRESS_S = 10             # without a terminal, shorter runs tell no progress
PROGRESS = re.compile(
    r"^fastload-bench: (generating the snapshot: +\d+ %|(\w+, (warm-up|round "
    r"\d+ of \d+))?: \d+ of \d+ runs(, about \d+ (s|min) left)?)\n", re.M)

LOADERS = ("null", "eager", "eager-multi", "two-thread", "alternate", "mmap",
           "mmap-ahead", "fastload")
LABELS = LOADERS + ("eager-multi direct", "fastload direct")
EXTRAS = ("copy-threads", "continue", "handler", "reap",
          "e2b")            # only when they are named
EXTRA_LABELS = EXTRAS + ("copy-threads direct", "continue direct")
TRAPPED = ("two-thread", "alternate", "fastload")   # need userfaultfd
LAZY = TRAPPED + ("mmap", "mmap-ahead")

# Options with which a run is as short as can be measured.
TINY = ("--memory", "fresh", "--window", "5ms", "--think", "0",
        "--working-set", "1M", "--warmup", "0", "--repeat", "1")
MADE = ("--size", "8M")
# Options with which a run goes on until the test ends it: longer than HANG_S.
ENDLESS = ("--window", "600s", "--timeout", "86400")

PAGE = 4096
MIB = 1 << 20

Child = subprocess.Popen[str]
Result = dict[str, Any]     # what --json writes
Found = TypeVar("Found")


class Done:
    """A command that has ended."""

    def __init__(self, command: Any, code: int, out: str | None,
                 err: str) -> None:
        self.command = command
        self.code = code
        self.out = out or ""         # None: its output went elsewhere
        self.progress = [found[0] for found in PROGRESS.finditer(err)]
        self.err = PROGRESS.sub("", err)    # on a slow machine any case has it

    def lines(self) -> Iterator[str]:
        yield f"$ {' '.join(map(repr, map(str, self.command)))}"
        yield f"exit code {self.code}"
        for name, text in (("stdout", self.out), ("stderr", self.err),
                           ("progress", "".join(self.progress))):
            for line in text.splitlines()[-SHOWN_LINES:]:
                yield f"{name}: {line[:200]!r}"


class Everything(NamedTuple):
    """A run of each contender in each way."""

    done: Done
    result: Result              # shared: to change it, load @saved anew
    saved: Path                 # the same as JSON
    page: Path


class Bench(PlainStage):
    """What the cases share."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.temporary = folder / "temporary"   # where it may generate
        self.temporary.mkdir()
        self.runs: list[Done] = []
        self.simulates = False  # storage can be simulated; False: not known
        self._everything: Everything | None = None
        self._begin_s = 0.0
        self._count = 0

    # ---- what the runner calls

    def begin(self, case: Case) -> None:
        self.runs.clear()

    def diagnostics(self) -> Iterable[str]:
        """The last commands and what they said."""
        for done in self.runs[-SHOWN_RUNS:]:
            yield from done.lines()

    def end(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for path in self.temporary.iterdir():
            path.unlink()

    # ---- commands

    def path(self, name: str) -> Path:
        """A new path with each call."""
        self._count += 1
        return self.folder / f"{self._count}-{name}"

    def command(self, *args: object) -> list[str]:
        words = list(args)
        if str(args[0]).startswith("-") and \
                args[0] not in ("--help", "--version"):
            words = ["--dir", self.temporary, *args]
        return [str(word) for word in (self.program, *words)]

    def spawn(self, command: Sequence[object], **options: Any) -> Child:
        """Start a command; @options: of Popen, instead of the usual ones."""
        self._begin_s = time.monotonic()
        streams: dict[str, Any] = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [str(word) for word in command], text=True,
            errors="backslashreplace", start_new_session=True,
            **{**streams, **options})

    def start(self, *args: object, before: Sequence[object] = (),
              **options: Any) -> Child:
        """Start the program; @before: a command that runs it."""
        return self.spawn([*before, *self.command(*args)], **options)

    def finish(self, child: Child) -> Done:
        """Wait until it has ended; what it printed."""
        is_late = False
        try:
            out, err = child.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            is_late = True
            os.killpg(child.pid, signal.SIGKILL)
            out, err = child.communicate()
        done = Done(child.args, child.returncode, out, err)
        self.runs.append(done)
        check(not is_late, f"not done after {HANG_S} s")
        most = max(0, (time.monotonic() - self._begin_s) / PROGRESS_S)
        check(len(done.progress) <= most,
              f"{len(done.progress)} lines of progress in {most * 10:.1f} s")
        return done

    def raw(self, *args: object, **options: Any) -> Done:
        return self.finish(self.start(*args, **options))

    def good(self, *args: object, **options: Any) -> Done:
        """Run it: it succeeds, prints no error and leaves nothing."""
        done = self.raw(*args, **options)
        check(done.code == 0, f"exit code {done.code}, not 0")
        check(done.err == "", f"stderr has {done.err!r}")
        self.nothing_left()
        return done

    def refused(self, code: int, pattern: str, *args: object,
                **options: Any) -> Done:
        """Run it: it fails with one sentence on stderr, and leaves nothing."""
        done = self.raw(*args, **options)
        one_sentence(done, code, pattern)
        check(done.out == "", f"stdout has {done.out!r}")
        self.nothing_left()
        return done

    def measured(self, *args: object, code: int = 0,
                 **options: Any) -> Result:
        """The result of a run that ends with @code."""
        path = self.path("result.json")
        done = self.raw(*args, "--json", path, **options)
        check(done.code == code, f"exit code {done.code}, not {code}")
        check(code or done.err == "", f"stderr has {done.err!r}")
        all_ours(done)
        self.nothing_left()
        return load_result(path)

    def everything(self) -> Everything:
        """Each contender in each way: made once, looked at by many cases."""
        if not self._everything:
            path, page = self.path("all.json"), self.path("all.html")
            done = self.good(*TINY, *MADE, "--repeat", "2", "--json", path,
                             "--html", page)
            self._everything = Everything(done, load_result(path), path, page)
        return self._everything

    def generated(self, *args: object) -> Path:
        path = self.path("snapshot")
        self.good("gen", *args, path)
        return path

    def made_up(self, result: Result) -> Path:
        """The file of a result that a case has changed."""
        path = self.path("made-up.json")
        path.write_text(json.dumps(result))
        return path

    # ---- processes

    def processes(self) -> list[int]:
        """All processes with our folder in their command line: its runs."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes()
                    if os.fsencode(self.folder) in words:
                        found.append(int(entry.name))
        return found

    def wait_for(self, what: str, child: Child,
                 found: Callable[[], Found]) -> Found:
        """What @found returns, once that is true; Failed if @child ends."""
        def found_or_over() -> Found:
            is_over = child.poll() is not None      # before the last look
            value = found()
            if is_over and not value:
                self.finish(child)
                raise Failed(f"it ended, and no {what} was seen")
            return value
        return wait_until(what, found_or_over)

    def child_of(self, parent: Child, other: int = 0) -> int:
        """The process of a run, once there is one; not the @other one."""
        found = self.wait_for("run", parent,
                              lambda: self.children_of(parent) - {other})
        return min(found)

    def children_of(self, parent: Child) -> set[int]:
        return {pid for pid in self.processes()
                if parent_of(pid) == parent.pid}

    def nothing_left(self) -> None:
        wait_until("end of all processes", lambda: not self.processes())
        left = sorted(path.name for path in self.temporary.iterdir())
        check(not left, f"files are left: {left}")


def parent_of(pid: int) -> int:
    """The parent of a process; 0 when there is no such process."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])
    return 0


def has_guest(pid: int) -> bool:
    """Whether a run has come so far that its loader and its guest run."""
    with contextlib.suppress(OSError):
        return any((task / "comm").read_text().startswith("vcpu")
                   for task in Path(f"/proc/{pid}/task").iterdir())
    return False


def wait_until(what: str, found: Callable[[], Found]) -> Found:
    """What @found returns, once that is true."""
    until = time.monotonic() + HANG_S
    while True:
        value = found()
        if value:
            return value
        check(time.monotonic() < until, f"no {what} after {HANG_S} s")
        time.sleep(POLL_S)


def has_result(path: Path) -> bool:
    """Whether a round has been saved; to try it, the program makes the file."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size > 0
    return False


def load_result(path: Path) -> Result:
    result: Result = json.loads(path.read_text())
    return result


# ---- what it says

def all_ours(done: Done) -> None:
    """Check that only the program itself wrote to stderr."""
    for line in done.err.splitlines():
        check(line.startswith("fastload-bench: "),
              f"stderr has a line of another kind: {line!r}")


def one_sentence(done: Done, code: int, pattern: str) -> None:
    """Check the exit code, and that stderr has one sentence like @pattern."""
    check(done.code == code, f"exit code {done.code}, not {code}")
    check(done.err.endswith("\n") and len(done.err.splitlines()) == 1,
          f"stderr has not one line but {done.err!r}")
    all_ours(done)
    check(re.search(pattern, done.err),
          f"{done.err!r} has nothing like {pattern!r}")
    check(len(done.err) > 40 or " " in done.err[16:], "it says too little")
