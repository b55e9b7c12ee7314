# SPDX-License-Identifier: GPL-2.0-or-later
"""The process behind a vhost-user disk, which checks guest memory too.

The program is tests/guest/vhost-backend.c; its head says what it prints.
"""

import contextlib
from pathlib import Path
import re
import signal
import subprocess
import time
from typing import Callable, Iterator, NamedTuple, Self, Sequence

from guest import ProbeGuest, figures
from host import PlainError, TOP
from tap import Failed, Skip, comment
from vm import Machine
from waiting import BUSY, VmTimeout

CHUNK_BYTES = 2 << 20       # the guest's pages begin at a multiple of this
POLL_S = 0.02
SAID_MAX = 20               # lines of the backend that a failed case shows
LOCAL_BUILDS = "build-qemu/*/src"


def libvhost_user(qemu: str) -> Path:
    """The library's source: this QEMU's own, else of any that is imported."""
    places = [Path(qemu).resolve().parents[1] / "src",
              *sorted(TOP.glob(LOCAL_BUILDS), reverse=True)]
    for place in places:
        folder = place / "subprojects" / "libvhost-user"
        if (folder / "libvhost-user.c").exists():
            return folder
    raise Skip("the source of libvhost-user is missing; qemu/import fetches "
               "it")


def build_backend(qemu: str) -> str:
    """The path of the backend's program, which is compiled if missing."""
    script = TOP / "tests" / "guest" / "build-backend"
    done = subprocess.run([script, libvhost_user(qemu)], text=True,
                          check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    if done.returncode:
        raise PlainError(done.stderr.strip() or "build-backend failed")
    return done.stdout.strip()


def first_address(machine: Machine) -> int:
    """The physical address of the first page that the probe guest fills."""
    assert isinstance(machine.guest, ProbeGuest)
    pages = machine.fill_mib << 8
    end = machine.guest.address_of("image_end") + 4 * pages
    return (end + CHUNK_BYTES - 1) // CHUNK_BYTES * CHUNK_BYTES


class Sweep(NamedTuple):
    pages: int
    wrong: int
    worst_us: int


class Backend:
    """A running backend.  It listens at a socket until QEMU connects."""

    def __init__(self, qemu: str, machine: Machine, socket: Path,
                 *options: str, sweepers: int = 2) -> None:
        assert isinstance(machine.guest, ProbeGuest)
        self.socket = socket
        self.sweepers = sweepers
        self._log = socket.with_suffix(".log")
        socket.unlink(missing_ok=True)
        with open(self._log, "w", encoding="ascii") as log:
            self.process = subprocess.Popen([
                build_backend(qemu), f"--first={first_address(machine)}",
                f"--sweepers={sweepers}", *options, socket,
                machine.guest.command_line(machine)],
                stdout=log, stderr=subprocess.STDOUT)
        self._wait("a socket", socket.exists)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None,
                 *_more: object) -> None:
        self.end()
        if error:
            for line in self.said().splitlines()[-SAID_MAX:]:
                comment(f"backend: {line}")

    def end(self, signal_number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal_number)
        self.process.wait()

    def said(self) -> str:
        return self._log.read_text("ascii", "replace")

    def _wait(self, what: str, is_there: Callable[[], object],
              timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout * BUSY
        while not is_there():
            if self.process.poll() is not None and not is_there():
                raise Failed(f"the backend ended ({self.process.returncode}) "
                             f"before {what}: {self.said()}")
            if time.monotonic() > deadline:
                raise VmTimeout(f"the backend: no {what} after "
                                f"{timeout * BUSY:g} s: {self.said()}")
            time.sleep(POLL_S)

    def wait_said(self, pattern: str, timeout: float = 60) -> re.Match[str]:
        self._wait(f"/{pattern}/",
                   lambda: re.search(pattern, self.said(), re.M), timeout)
        found = re.search(pattern, self.said(), re.M)
        assert found
        return found

    def sweeps(self) -> Iterator[Sweep]:
        for line in re.findall(r"^BACKEND SWEEP .*$", self.said(), re.M):
            yield Sweep(**figures(line))

    def wait_swept(self, machine: Machine, timeout: float = 120) -> None:
        """Wait until each of its threads has checked all pages: none wrong."""
        self._wait("sweep of each thread",
                   lambda: len(list(self.sweeps())) >= self.sweepers, timeout)
        for sweep in self.sweeps():
            if sweep.wrong or sweep.pages != machine.fill_mib << 8:
                raise Failed(f"the backend saw {sweep}: {self.said()}")


def disk_args(socket: Path, *, number: int = 0, queues: int = 1,
              more: str = "") -> Sequence[str]:
    """QEMU's options for a vhost-user disk.

    The first one is the probe guest's second disk.  The probe guest does not
    use those after it.
    """
    return ("-chardev", f"socket,id=vhost{number},path={socket}{more}",
            "-device", "vhost-user-blk-pci-transitional,"
            f"chardev=vhost{number},num-queues={queues},id=shared{number}")
