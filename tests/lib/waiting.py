# SPDX-License-Identifier: GPL-2.0-or-later
"""Wait for something that another thread reads from a process.

Every wait has a bound, and ends at once when the process has ended.  Times are
seconds of the monotonic clock.

A caller gives the time that is ample on an idle machine.  The bound is BUSY
times that, because the machine may run many other programs: only a hang
reaches it.
"""

import threading
import time
from typing import Callable, TypeVar

from host import PlainError

T = TypeVar("T")
WAKE_S = 0.5                # between two looks at what no thread notifies
BUSY = 6                    # how much slower a busy machine may be


class VmError(PlainError):
    """QEMU or its guest did not do what was asked, in one sentence."""


class VmTimeout(VmError):
    """Something did not happen in time."""


class Waiting:
    """A lock, and waits for what changes under it.

    A class that inherits from two kinds of Waiting calls this __init__() once.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()

    def why_not(self, what: str) -> str | None:
        """Why `what` can never come, or None as long as it can."""
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
    """Puts whole lines together from bytes that come in pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def add(self, data: bytes) -> list[bytes]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines
