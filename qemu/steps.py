# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands that take minutes: their progress on the screen, and their log."""

import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from layout import Fail, shown

LINE_EVERY_S = 10                       # when nobody watches a terminal
LOG_LINES_SHOWN = 40
ENDING_MAX_S = 5


def say(topic: str, text: str) -> None:
    print(f"{topic:<10}{text}", flush=True)


class Progress:
    """One line that changes on a terminal; elsewhere a line now and then."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.start = time.monotonic()
        self.last = self.start
        self.is_terminal = sys.stdout.isatty()

    def show(self, text: str, last: bool = False) -> None:
        now = time.monotonic()
        seconds = int(now - self.start)
        line = (f"{self.topic:<10}{text} "
                f"{seconds // 60:02d}:{seconds % 60:02d}")
        if self.is_terminal:
            end = "\n" if last else ""
            print(f"\r\033[K{line}", end=end, flush=True)
        elif last or now - self.last >= LINE_EVERY_S:
            self.last = now
            print(line, flush=True)


def end(child: subprocess.Popen[str]) -> None:
    """End a child by SIGTERM, or else by SIGKILL: unshare ignores SIGTERM."""
    child.terminate()
    try:
        child.wait(ENDING_MAX_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def run_logged(topic: str, command: Sequence[str | Path], log_path: Path, *,
               cwd: Path | None = None, env: Mapping[str, str] | None = None,
               hint: str) -> int:
    """Run a command; progress goes to the screen, its output to the log.

    Returns its exit code.  @hint: what to do when the program is missing.
    """
    progress = Progress(topic)
    doing = "working"
    with log_path.open("a") as log:
        log.write(f"$ {' '.join(map(str, command))}\n")
        log.flush()
        try:
            child = subprocess.Popen(
                command, cwd=cwd, env=env, text=True, errors="replace",
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT)
        except FileNotFoundError as error:
            raise Fail(f"The program {command[0]} is not installed; {hint}."
                       ) from error
        assert child.stdout
        try:
            for line in child.stdout:
                log.write(line)
                count = re.match(r"\[(\d+)/(\d+)\] ", line)
                if count:
                    part, whole = map(int, count.groups())
                    doing = f"[{part}/{whole}] {100 * part // whole}%"
                progress.show(doing)
            child.wait()
        finally:
            if child.poll() is None:
                end(child)
    progress.show("done" if child.returncode == 0 else "failed", last=True)
    return child.returncode


def failed(topic: str, log_path: Path) -> Fail:
    """The exception for a step that failed; shows the end of its log."""
    lines = log_path.read_text(errors="replace").splitlines()
    print("\n".join(lines[-LOG_LINES_SHOWN:]))
    return Fail(f"Step '{topic}' failed: its last lines are above, its whole "
                f"output is in {shown(log_path)}.")
