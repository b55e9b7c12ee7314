# SPDX-License-Identifier: GPL-2.0-or-later
"""Run a program within a bound, end all that it started, tell its result.

Several steps may run at a time, each in a thread of its own: every line has
the step's name before it.  The caller gets each line of standard output; when
the step failed, the lines that matter are shown.

stop_all() ends all steps when this program gets a signal: run() then raises
Stopped in every thread.  A program gets SIGTERM first, because it may have
mounts and machines to clear up, then SIGKILL.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tapreader import Score, Tap, lines_that_matter

TOP = Path(__file__).resolve().parent.parent.parent
ALIVE_EVERY_S = 30          # a sign of life of a step that says nothing
KILL_AFTER_S = 30
POLL_S = 0.05

_print_lock = threading.Lock()


def tell(*lines: str) -> None:
    """Lines that stay together."""
    with _print_lock:
        for line in lines:
            print(line)
        sys.stdout.flush()


class Stopped(Exception):
    """stop_all() was called: nothing more is to be run."""


class Step:
    """One run of one program."""

    _lock = threading.Lock()            # for the next two
    _running: "set[Step]" = set()
    _is_stopped = False

    def __init__(self, name: str, command: Sequence[str | Path],
                 limit_s: float, cwd: Path = TOP,
                 env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = [str(word) for word in command]
        self.limit_s = limit_s
        self.cwd = cwd
        self.env = {**os.environ, **(env or {})}
        self.lines: list[str] = []      # standard output, then error
        self.has_exited = False         # by itself, with any exit code
        self._child: subprocess.Popen[str] | None = None
        self._is_out_of_time = False
        self._begin = time.monotonic()
        self._last_told = self._begin

    def tell(self, *texts: str) -> None:
        self._last_told = time.monotonic()
        tell(*(f"{self.name}: {text}" for text in texts))

    def run(self, each_line: Callable[[str], object] | None = None
            ) -> str | None:
        """None when it ended well, else what was wrong."""
        self.tell("begins")
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            try:
                child = self._start(errors.fileno())
            except OSError as error:
                return f"cannot run {self.command[0]}: {error.strerror}"
            timer = threading.Timer(self.limit_s, self._out_of_time)
            ended = threading.Event()
            alive = threading.Thread(target=self._sign_of_life, args=(ended,),
                                     daemon=True)
            timer.start()
            alive.start()
            try:
                assert child.stdout
                for line in child.stdout:
                    self.lines.append(line.rstrip("\n"))
                    if each_line:
                        each_line(line)
                code = child.wait()
            finally:
                timer.cancel()
                ended.set()
                _kill([self])
                with Step._lock:
                    Step._running.discard(self)
            errors.seek(0)
            self.lines += errors.read().splitlines()
        if Step._is_stopped:
            raise Stopped()
        if self._is_out_of_time:
            return f"not done after {self.limit_s:g} s"
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        self.has_exited = True
        return f"exit code {code}" if code else None

    def tell_case(self, verdict: str, name: str, reason: str) -> None:
        self.tell(f"{verdict}: {name}" + (f": {reason}" if reason else ""))

    def report(self, is_good: bool, text: str = "") -> None:
        seconds = time.monotonic() - self._begin
        if not is_good:
            self.tell(*(f"| {line}" for line in lines_that_matter(self.lines)))
        self.tell(f"{'done' if is_good else 'FAILED'} after {seconds:.1f} s" +
                  (f", {text}" if text else ""))

    @classmethod
    def stop_all(cls) -> None:
        with cls._lock:
            cls._is_stopped = True
            running = list(cls._running)
        _kill(running)

    def _start(self, errors: int) -> "subprocess.Popen[str]":
        with Step._lock:
            if Step._is_stopped:
                raise Stopped()
            self._child = subprocess.Popen(
                self.command, cwd=self.cwd, env=self.env, text=True,
                errors="replace", stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
            Step._running.add(self)
            return self._child

    def send(self, number: int) -> bool:
        """Signal the child and what it started; whether any of it is left."""
        assert self._child
        self._child.poll()
        try:
            os.killpg(self._child.pid, number)
        except ProcessLookupError:
            return False
        return True

    def _out_of_time(self) -> None:
        self._is_out_of_time = True
        _kill([self])

    def _sign_of_life(self, ended: threading.Event) -> None:
        wait_s = float(ALIVE_EVERY_S)
        while not ended.wait(wait_s):
            now = time.monotonic()
            wait_s = self._last_told + ALIVE_EVERY_S - now
            if wait_s <= 0:
                self.tell(f"{now - self._begin:.0f} s")
                wait_s = ALIVE_EVERY_S


def prepare(score: Score, name: str, command: Sequence[str | Path],
            limit_s: float, is_loud: bool = False) -> bool:
    """A step that counts only when it fails."""
    step = Step(name, command, limit_s)
    trouble = step.run((lambda line: step.tell(line.rstrip()))
                       if is_loud else None)
    if trouble:
        score.fail(f"{name}: {trouble}")
        step.lines.append(trouble)
    step.report(not trouble)
    return not trouble


def tap_program(score: Score, name: str, command: Sequence[str | Path],
                limit_s: float, cwd: Path = TOP,
                env: Mapping[str, str] | None = None) -> None:
    """A program that prints TAP; each of its cases counts."""
    step = Step(name, command, limit_s, cwd, env)
    tap = Tap(name, step.tell_case)
    try:
        tap.finish(step.run(tap.feed))
    finally:
        score.add(tap.score)    # when all is stopped, too
    step.report(not tap.score.failed, tap.score.line())


def _kill(steps: Sequence[Step]) -> None:
    """End children and what they started; nothing when all is gone."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [step for step in steps if step.send(number)]
        until = time.monotonic() + KILL_AFTER_S
        while left and time.monotonic() < until:
            time.sleep(POLL_S)
            left = [step for step in left if step.send(0)]
        if not left:
            return
