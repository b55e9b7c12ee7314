# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait for what another thread hears of a process.

Every wait has a bound, and ends at once when nothing can come any more.
Times are seconds of the monotonic clock.

A bound is what a machine with nothing else to do needs, and some more.  Waits
last BUSY times as long, so that only a hang reaches a bound: a machine may run
many other programs meanwhile.
"""

import threading
import time
from typing import Callable, TypeVar

from host import PlainError

T = TypeVar("T")
WAKE_S = 0.5                # between two looks at what no thread tells
BUSY = 6                    # how much slower a busy machine may be


class VmError(PlainError):
    """QEMU or its guest did not do what was asked, in one sentence."""


class VmTimeout(VmError):
    """Something did not happen in time."""


class Waiting:
    """A lock, and waits for what changes under it.

    Who inherits from two kinds of Waiting calls this __init__() once.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()

    def why_not(self, what: str) -> str | None:
        """Why this cannot come any more, or None as long as it can."""
        raise NotImplementedError

    def wait_for(self, what: str, probe: Callable[[], T | None],
                 timeout: float) -> T:
        """The first true value of probe(), called with the lock held."""
        timeout *= BUSY
        deadline = time.monotonic() + timeout
        with self.changed:
            while True:
                value = probe()
                if value:
                    return value
                why = self.why_not(what)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise VmTimeout(f"waited {timeout:g} s for {what}")
                if why:
                    raise VmError(why)
                self.changed.wait(min(left, WAKE_S))


class Lines:
    """Whole lines of bytes that come in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines
