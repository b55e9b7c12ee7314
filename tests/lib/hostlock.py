# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock between test programs, for the settings of this host.

Test programs run side by side.  Each case runs in shared().  A case that
changes a setting of the kernel does so in exclusive(), which waits until no
other case runs.  The lock works between processes: flock() of two files.

The file "host" is the lock.  The file "gate" is locked by everybody who waits
for "host".  So exclusive() waits for the cases that run already, and not for
those that begin later.

The time of waiting does not count for the bound of a case.
"""

import contextlib
import fcntl
import os
from pathlib import Path
import signal
from typing import Iterator

# All users of the machine share its settings, so they share the lock.
FOLDER = Path("/tmp")
NAMES = ("fastload-test-gate", "fastload-test-host")

_fds: list[int] = []            # gate, host; open once they are needed
_sharing = 0                    # how often this process is in shared()
_excluding = 0                  # ... in exclusive()


def _open(path: Path) -> int:
    """Open a lock file, and create it if it is missing.

    In /tmp, open() with O_CREAT fails for a file that another user made, even
    for root (fs.protected_regular).  So it is tried without O_CREAT first.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags)
        with contextlib.suppress(FileExistsError):
            return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)


def _locks() -> tuple[int, int]:
    if not _fds:
        before = os.umask(0)
        try:
            _fds.extend(_open(FOLDER / name) for name in NAMES)
        finally:
            os.umask(before)
    return _fds[0], _fds[1]


@contextlib.contextmanager
def _clock_stands() -> Iterator[None]:
    """The bound of a case, SIGALRM's timer, does not run in here."""
    left, again = signal.setitimer(signal.ITIMER_REAL, 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, again)


def _share() -> None:
    gate, host = _locks()
    with _clock_stands():
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(host, fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """No other process changes settings of the host in here."""
    global _sharing
    if not _sharing and not _excluding:
        _share()
    _sharing += 1
    try:
        yield
    finally:
        _sharing -= 1
        if not _sharing and not _excluding:
            fcntl.flock(_locks()[1], fcntl.LOCK_UN)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """No other process is in shared() or exclusive() in here.

    Called inside shared(), it gives up that lock while it waits: another
    process may change settings meanwhile.
    """
    global _excluding
    gate, host = _locks()
    if not _excluding:
        with _clock_stands():
            # Two processes that kept it would wait for each other for ever.
            fcntl.flock(host, fcntl.LOCK_UN)
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(host, fcntl.LOCK_EX)
    _excluding += 1
    try:
        yield
    finally:
        _excluding -= 1
        if not _excluding:
            # The gate is still locked: nobody changes settings in between.
            fcntl.flock(host, fcntl.LOCK_SH if _sharing else fcntl.LOCK_UN)
            fcntl.flock(gate, fcntl.LOCK_UN)
