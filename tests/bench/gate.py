# SPDX-License-Identifier: GPL-2.0-or-later
"""Holds a program where a case wants it, however fast the machine is."""

import contextlib
import errno
import os

from bench.stage import Bench, Child

# Of a guest with a MiB of memory at least.
TOUCHES = "".join(f"{offset:#x}\n" for offset in range(0, 1 << 20, 64 << 10))


class Gate:
    """The trace of the program's guest, which it gets when the case wants.

    A FIFO, a new one for each reader: who opens it waits for a writer, and then
    for the end of what is written.  The program reads the trace once for each
    scenario, before the snapshot's checksums are taken; each process of a run
    reads it before it asks the contender for anything.  Not for clones, which
    would read at the same time.
    """

    def __init__(self, bench: Bench) -> None:
        self.path = bench.path("gate")
        self.options = ("--trace", self.path)
        self._bench = bench
        self.is_open = False
        self._writer: int | None = None
        os.mkfifo(self.path)

    def has_somebody(self) -> bool:
        """Whether somebody stands before the gate, now."""
        if self._writer is None and not self.is_open:
            try:
                self._writer = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as e:
                if e.errno != errno.ENXIO:      # nobody reads
                    raise
        return self._writer is not None

    def wait(self, child: Child) -> None:
        """Until somebody stands before the gate."""
        self._bench.wait_for("process at the gate", child, self.has_somebody)

    def wait_for_run(self, child: Child) -> None:
        """The same for the first run; the program itself may pass."""
        self.wait(child)
        self.let_pass()
        self.wait(child)

    def let_pass(self) -> None:
        """The one that stands there; the next one has to wait."""
        # In another FIFO: in this one, the former might still be there.
        following = self._bench.path("gate")
        os.mkfifo(following)
        following.rename(self.path)
        self._write()

    def open(self) -> None:
        """For the one that stands there and all that come."""
        trace = self._bench.path("trace")
        trace.write_text(TOUCHES)
        trace.rename(self.path)
        self.is_open = True
        self._write()

    def _write(self) -> None:
        assert self._writer is not None
        with contextlib.suppress(BrokenPipeError):  # a case has killed it
            os.write(self._writer, TOUCHES.encode())
        os.close(self._writer)
        self._writer = None
