# SPDX-License-Identifier: GPL-2.0-or-later
"""Stores of the small snapshot that fail, or hang, while they are told to."""

import contextlib
import socket
from typing import Iterator

from host import NetworkStore
from suite import Suite
from waiting import BUSY


class FailingStore(NetworkStore):
    """The small snapshot on a store whose reads fail while it is told to."""

    def __init__(self, suite: Suite, rate: str = "100%",
                 *filters: str) -> None:
        self._flag = suite.folder / "failing"
        self._flag.unlink(missing_ok=True)
        super().__init__(
            suite.snapshot("small"), "--filter=error", "error-pread=EIO",
            f"error-pread-rate={rate}", f"error-pread-file={self._flag}",
            *filters)

    def fail(self) -> None:
        self._flag.touch()

    def mend(self) -> None:
        self._flag.unlink(missing_ok=True)


class HangingStore(NetworkStore):
    """The small snapshot on a store whose reads hang while it is told to."""

    def __init__(self, suite: Suite) -> None:
        self._control = suite.folder / "pause"
        super().__init__(suite.snapshot("small"), "--filter=pause",
                         f"pause-control={self._control}")

    def _say(self, letter: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10 * BUSY)
            s.connect(str(self._control))
            s.sendall(letter)
            s.recv(1)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Ends in any case: no signal ends a QEMU whose reads hang."""
        self._say(b"p")
        try:
            yield
        finally:
            self._say(b"r")
