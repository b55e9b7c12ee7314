# SPDX-License-Identifier: GPL-2.0-or-later
"""Storage whose reads fail, or hang, while the test wants that."""

import contextlib
from pathlib import Path
import socket
from typing import Iterator

from host import NetworkStore
from suite import Suite
from waiting import BUSY


class FailingFile(NetworkStore):
    """A file on a store whose reads fail between fail() and mend().

    folder: where a flag file tells nbdkit to fail.
    rate: the share of reads that fail.
    The others are arguments of NetworkStore().
    """

    def __init__(self, source: Path, folder: Path, rate: str = "100%",
                 *filters: str, place: Path | None = None) -> None:
        self._flag = folder / "failing"
        self._flag.unlink(missing_ok=True)
        super().__init__(
            source, "--filter=error", "error-pread=EIO",
            f"error-pread-rate={rate}", f"error-pread-file={self._flag}",
            *filters, place=place)

    def fail(self) -> None:
        self._flag.touch()

    def mend(self) -> None:
        self._flag.unlink(missing_ok=True)


class FailingStore(FailingFile):
    """The small snapshot, as a FailingFile."""

    def __init__(self, suite: Suite, rate: str = "100%",
                 *filters: str) -> None:
        super().__init__(suite.snapshot("small"), suite.folder, rate,
                         *filters)


class HangingFile(NetworkStore):
    """A file on a store whose reads hang in hanging().

    folder: where the socket is made that tells nbdkit to hang.
    """

    def __init__(self, source: Path, folder: Path, *,
                 place: Path | None = None) -> None:
        self._control = folder / "pause"
        super().__init__(source, "--filter=pause",
                         f"pause-control={self._control}", place=place)

    def _say(self, letter: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10 * BUSY)
            s.connect(str(self._control))
            s.sendall(letter)
            s.recv(1)

    def go_on(self) -> None:
        self._say(b"r")

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """Reads go on at the end, also after an error.

        No signal ends a QEMU whose reads hang.
        """
        self._say(b"p")
        try:
            yield
        finally:
            self.go_on()


class HangingStore(HangingFile):
    """A snapshot of the small guest, as a HangingFile."""

    def __init__(self, suite: Suite, name: str = "small") -> None:
        super().__init__(suite.snapshot(name), suite.folder)
