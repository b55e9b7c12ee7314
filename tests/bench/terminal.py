# SPDX-License-Identifier: GPL-2.0-or-later
"""What a terminal gets, and what tables on it say."""

import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import tempfile
import termios

from bench.stage import RUN_TIMEOUT_S, Bench, Done
from tap import check

COLUMNS = 80
WIDTHS = (20, 40, 60, 80, 200)      # columns of terminals


def set_columns(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ,
                struct.pack("HHHH", 24, columns, 0, 0))


def on_terminal(bench: Bench, *args: object, columns: int = COLUMNS,
                later_columns: int | None = None, stream: str = "stderr",
                term: str = "xterm") -> tuple[int, str, str]:
    """What a run writes to a terminal as one stream, and to the other."""
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
        while True:
            try:
                piece = os.read(master, 1 << 16)
            except OSError as e:
                if e.errno != errno.EIO:
                    raise
                break           # nobody has the terminal any more
            if not piece:
                break
            said += piece
            if later_columns:
                set_columns(master, later_columns)
        os.close(master)
        child.wait(RUN_TIMEOUT_S)
        output.seek(0)
        out = output.read()
    text = said.decode(errors="replace")
    bench.runs.append(Done(command, child.returncode, out, text))
    return child.returncode, out, text


def bars(said: str) -> list[str]:
    """What was to be seen of the progress, one after the other."""
    return [line for line in re.split(r"\r\033\[K", said) if line]


def table_of(done: Done) -> str:
    """What was printed but for the lines that say where the result is."""
    return re.sub(r"\n(result|page|CSV|Markdown): .*\n", "", done.out)


def check_width(text: str, columns: int) -> None:
    widest = max(text.splitlines(), key=len)
    check(len(widest) <= columns,
          f"{len(widest)} of {columns} columns: {widest!r}")


def figures_of(text: str) -> set[str]:
    return set(re.findall(r"[\d.]+ (?:[num]?s|[KMG]iB|%)(?!\w)", text))
