# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may change settings of this host, and when.

Test programs run side by side.  A case holds the host as it is with shared();
whoever changes a setting of the kernel for a while waits with exclusive()
until nobody else does.  Between processes: two files that flock() locks.

The second file is a gate that everybody goes through to lock the first one,
so whoever wants to change something waits for the cases that run now, and not
for those that begin meanwhile.

The time that is spent waiting does not count for the bound of a case.
"""

import contextlib
import fcntl
import os
from pathlib import Path
import signal
from typing import Iterator

# A place of the machine and not of the user: the settings are the machine's.
FOLDER = Path("/tmp")
NAMES = ("fastload-test-gate", "fastload-test-host")

_fds: list[int] = []            # gate, host; open once they are needed
_sharing = 0                    # how often this process is in shared()
_excluding = 0                  # ... in exclusive()


def _open(path: Path) -> int:
    """Made when it is not there.

    In a folder like /tmp no O_CREAT opens what another user has made, not even
    for root (fs.protected_regular).
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
    """Nobody changes settings of the host in here, but this process."""
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
    """Nobody else is in shared() or exclusive(), in any process.

    Inside shared() others may be let in before this begins, and after it.
    """
    global _excluding
    gate, host = _locks()
    if not _excluding:
        with _clock_stands():
            # Kept while waiting, two of them would wait for each other.
            fcntl.flock(host, fcntl.LOCK_UN)
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(host, fcntl.LOCK_EX)
    _excluding += 1
    try:
        yield
    finally:
        _excluding -= 1
        if not _excluding:
            # With the gate closed nobody else gets in between.
            fcntl.flock(host, fcntl.LOCK_SH if _sharing else fcntl.LOCK_UN)
            fcntl.flock(gate, fcntl.LOCK_UN)
