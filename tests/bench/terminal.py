# SPDX-License-Identifier: GPL-2.0-or-later
"""What a terminal shows, and what tables on it say."""

import errno
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import tempfile
import termios
from typing import Callable

from bench.gate import Gate
from bench.stage import HANG_S, POLL_S, Bench, Done
from tap import check

COLUMNS = 80
OnTurn = Callable[[str, int], None]
WIDTHS = (20, 40, 60, 80, 200)      # columns of terminals


def set_columns(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ,
                struct.pack("HHHH", 24, columns, 0, 0))


def read_terminal(terminal: int) -> bytes | None:
    """The bytes that came, or none; None: no process has the terminal open."""
    if not select.select([terminal], [], [], POLL_S)[0]:
        return b""
    try:
        return os.read(terminal, 1 << 16) or None
    except OSError as e:
        if e.errno != errno.EIO:
            raise
        return None


def on_terminal(bench: Bench, *args: object, columns: int = COLUMNS,
                stream: str = "stderr", term: str = "xterm",
                on_turn: OnTurn | None = None) -> tuple[int, str, str]:
    """Run the program with one stream at a terminal.

    Returns its exit code, what it wrote to its other stream, and what it wrote
    to the terminal.  @on_turn is called again and again with what the terminal
    has got so far, and with a file descriptor of the terminal.
    """
    master, slave = pty.openpty()
    set_columns(slave, columns)
    command = bench.command(*args)
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL,
            stdout=slave if stream == "stdout" else output,
            stderr=slave if stream == "stderr" else output,
            env={**os.environ, "TERM": term}, start_new_session=True)
        os.close(slave)
        said = b""
        while (piece := read_terminal(master)) is not None:
            said += piece
            if on_turn:
                on_turn(said.decode(errors="replace"), master)
        os.close(master)
        child.wait(HANG_S)
        output.seek(0)
        out = output.read()
    text = said.decode(errors="replace")
    bench.runs.append(Done(command, child.returncode, out, text))
    return child.returncode, out, text


def held_until(gate: Gate, *patterns: str) -> OnTurn:
    """For on_terminal(): hold each process until the next pattern shows."""
    rest = list(patterns)

    def on_turn(said: str, terminal: int) -> None:
        if rest and gate.has_somebody() and re.search(rest[0], said):
            rest.pop(0)
            if rest:
                gate.let_pass()
            else:
                gate.open()
    return on_turn


def bars(said: str) -> list[str]:
    """The progress bars that were drawn, in order."""
    return [line for line in re.split(r"\r\033\[K", said) if line]


def table_of(done: Done) -> str:
    """What was printed, without the lines that say where the result is."""
    return re.sub(r"\n(result|page|CSV|Markdown): .*\n", "", done.out)


def has_times(text: str, label: str) -> bool:
    """Whether a table has a row of that contender, with times."""
    return bool(re.search(rf"^  {re.escape(label)} .* [num]?s ", text, re.M))


def check_width(text: str, columns: int) -> None:
    widest = max(text.splitlines(), key=len)
    check(len(widest) <= columns,
          f"{len(widest)} of {columns} columns: {widest!r}")


def figures_of(text: str) -> set[str]:
    return set(re.findall(r"[\d.]+ (?:[num]?s|[KMG]iB|%)(?!\w)", text))
