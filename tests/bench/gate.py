# SPDX-License-Identifier: GPL-2.0-or-later
"""Stops a program at a certain place, however fast the machine is."""

import contextlib
import errno
import os

from bench.stage import Bench, Child

# The trace, for a guest with at least 1 MiB of memory.
TOUCHES = "".join(f"{offset:#x}\n" for offset in range(0, 1 << 20, 64 << 10))


class Gate:
    """The trace of the program's guest, which stops each process that reads it.

    It is a FIFO: a process that opens it waits until the case writes the trace.
    Each reader gets a FIFO of its own.  The program itself reads the trace once
    for each scenario, before the snapshot's checksums are taken; each process
    of a run reads it before it calls the contender.  Not for clones, which
    would read one FIFO at the same time.
    """

    def __init__(self, bench: Bench) -> None:
        self.path = bench.path("gate")
        self.options = ("--trace", self.path)
        self._bench = bench
        self.is_open = False
        self._writer: int | None = None
        os.mkfifo(self.path)

    def has_somebody(self) -> bool:
        """Whether a process waits at the gate now."""
        if self._writer is None and not self.is_open:
            try:
                self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as e:
                if e.errno != errno.ENXIO:      # nobody reads
                    raise
        return self._writer is not None

    def wait(self, child: Child) -> None:
        """Wait until a process waits at the gate."""
        self._bench.wait_for("process at the gate", child, self.has_somebody)

    def wait_for_run(self, child: Child) -> None:
        """Wait for the first run at the gate; let the program itself pass."""
        self.wait(child)
        self.let_pass()
        self.wait(child)

    def let_pass(self) -> None:
        """Let the process at the gate go on; the next one has to wait."""
        # The next one gets another FIFO: this one may still have its reader.
        following = self._bench.path("gate")
        os.mkfifo(following)
        following.rename(self.path)
        self._write()

    def open(self) -> None:
        """Let the process at the gate go on, and all that come later."""
        trace = self._bench.path("trace")
        trace.write_text(TOUCHES)
        trace.rename(self.path)
        self.is_open = True
        self._write()

    def _write(self) -> None:
        assert self._writer is not None
        with contextlib.suppress(BrokenPipeError):  # the case has killed it
            os.write(self._writer, TOUCHES.encode())
        os.close(self._writer)
        self._writer = None
