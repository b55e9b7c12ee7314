# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests that check their own memory: what is booted, what they say.

A guest fills its memory with a pattern, then checks and writes random pages
for ever.  tests/guest/guest-core.h has the lines on the serial port.  Every
guest says the same lines, reads the same bytes and takes the same fl.* words
on its command line, so a Guest differs from another one in what QEMU has to
boot, and in nothing else.
"""

from __future__ import annotations

import abc
import dataclasses
import json
from pathlib import Path
import re
import socket
import subprocess
import time
from typing import Callable, NamedTuple, TYPE_CHECKING

from host import PlainError, TOP
from waiting import Lines, VmError, Waiting

if TYPE_CHECKING:
    from vm import Machine

MEM_MIN_MIB = 384           # the least that an option may give a guest
KERNEL_MIB = 160            # of a guest's memory, which it cannot fill

PAGE_WORDS = 512
VIRTIO_DEVICES = (
    "-object", "rng-random,id=rng0,filename=/dev/urandom",
    "-device", "virtio-rng-pci,rng=rng0",
    "-blockdev", "null-co,node-name=disk0,size=1048576,read-zeroes=on",
    "-device", "virtio-blk-pci,drive=disk0")

READY = r"^FASTLOAD READY"
REBOOT, SWEEP, KEEP_TO_ONE_PAGE = b"r", b"s", b"k"
MOUNT, UNMOUNT = b"m", b"n"     # Linux only: a folder of virtiofsd
THINK_1_MS = b"6"           # compute for 1 ms between two pages
# Which pages it visits: any, or always the same sixteenth of them.
UNIFORM, WORKING_SET = b"u", b"h"
# Instead of the pages that UNIFORM would visit, or of half of them, others.
ELSEWHERE, HALF_ELSEWHERE = b"e", b"f"
OVERWRITE = b"w"
# Only the probe guest knows these.
READ_SECTOR, START_PLUGGED_DISK = b"b", b"d"
# The sum that READ_SECTOR makes it print for a disk of zeros: one sector of
# zeros, in a page of bytes 0xa5.
SECTOR_SUM = (4096 - 512) * 0xa5
TRIPLE_FAULT, POWER_OFF, DEBUG_EXIT = b"t", b"o", b"x"


class Guest(abc.ABC):
    """What a machine boots."""

    name: str                   # for people
    key: str                    # two guests that differ have different keys
    words: int                  # how many of a page's 512 it fills and checks
    kernel: str                 # a file

    @abc.abstractmethod
    def command_line(self, machine: Machine) -> str:
        """The kernel's."""

    @abc.abstractmethod
    def arguments(self, machine: Machine) -> list[str]:
        """QEMU's options: kernel, its command line, the devices it drives."""

    @abc.abstractmethod
    def placed(self, place: Callable[[str], str]) -> Guest:
        """The same guest, with its files where place(path) puts them."""

    @staticmethod
    def words_of(machine: Machine) -> str:
        """The kernel's command line: how to fill and visit memory."""
        return (f"fl.fill_mib={machine.fill_mib} "
                f"fl.zero_pct={machine.zero_pct} fl.seed={machine.seed} "
                f"fl.think_us={machine.think_us}")


def built(script: str) -> str:
    """What a script of tests/guest prints after it has built a guest."""
    done = subprocess.run([TOP / "tests" / "guest" / script], text=True,
                          check=False, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE)
    if done.returncode:
        raise PlainError(done.stderr.strip() or f"{script} failed")
    return done.stdout


@dataclasses.dataclass(frozen=True)
class LinuxGuest(Guest):
    """A Debian kernel with guest-init.c as its /init, by build-guest."""

    kernel: str
    initrd: str
    name: str
    key: str
    words = PAGE_WORDS

    @classmethod
    def build(cls) -> LinuxGuest:
        """The guest, which is built if it is missing."""
        made = json.loads(built("build-guest"))
        return cls(made["kernel"], made["initrd"],
                   f"Linux {made['release']}", made["key"])

    def command_line(self, machine: Machine) -> str:
        return ("console=ttyS0 quiet panic=-1 tsc=reliable clocksource=tsc "
                f"memhp_default_state=online {self.words_of(machine)}")

    def arguments(self, machine: Machine) -> list[str]:
        return ["-kernel", self.kernel, "-initrd", self.initrd,
                "-append", self.command_line(machine), *VIRTIO_DEVICES]

    def placed(self, place: Callable[[str], str]) -> LinuxGuest:
        return dataclasses.replace(self, kernel=place(self.kernel),
                                   initrd=place(self.initrd))


@dataclasses.dataclass(frozen=True)
class ProbeGuest(Guest):
    """A kernel of our own that only checks memory, by build-probe.

    words: how many words of each page it fills and checks, a power of two.
    Normally all; a processor that is interpreted is too slow for that.
    """

    kernel: str
    words: int = PAGE_WORDS

    @property
    def name(self) -> str:      # type: ignore[override]
        return "probe guest" if self.words == PAGE_WORDS else \
            f"probe guest, {self.words} words of each page"

    @property
    def key(self) -> str:       # type: ignore[override]
        return f"{Path(self.kernel).name}-{self.words}"

    @classmethod
    def build(cls) -> ProbeGuest:
        """The guest, which is built if it is missing."""
        return cls(built("build-probe").strip())

    def command_line(self, machine: Machine) -> str:
        return f"{self.words_of(machine)} fl.words={self.words}"

    def arguments(self, machine: Machine) -> list[str]:
        # qboot is firmware that takes a few milliseconds.
        return ["-bios", "qboot.rom", "-kernel", self.kernel,
                "-append", self.command_line(machine), *VIRTIO_DEVICES]

    def address_of(self, name: str) -> int:
        """The physical address of a variable of this guest."""
        done = subprocess.run(["nm", self.kernel], text=True, check=True,
                              stdout=subprocess.PIPE)
        found = re.search(rf"^([0-9a-f]+) \w {name}$", done.stdout, re.M)
        if not found:
            raise PlainError(f"the probe guest has no '{name}'")
        return int(found[1], 16)

    def placed(self, place: Callable[[str], str]) -> ProbeGuest:
        return dataclasses.replace(self, kernel=place(self.kernel))


# ------------------------------------------------------------ what it says

class SerialLine(NamedTuple):
    at: float                   # when its end arrived
    text: str


def figures(text: str) -> dict[str, int]:
    """The name=number pairs of a line."""
    return {name: int(value) for name, value in
            re.findall(r"(\w+)=(\d+)", text)}


class Verifier(Waiting):
    """A running guest, seen through its serial port.

    The reader thread of vm.Qemu hands the bytes over to hear_serial().
    """

    def __init__(self, serial_socket: socket.socket) -> None:
        self.serial: list[SerialLine] = []
        self.serial_first_at: float | None = None
        self.tick: dict[str, int] = {}      # figures of the last TICK
        self.wrong_max = 0                  # highest "wrong" ever seen
        self.worst_us = 0                   # longest touch since the start
        self._serial_socket = serial_socket
        self._serial_lines = Lines()

    def hear_serial(self, at: float, data: bytes) -> None:
        """Take bytes that came; called with the lock held."""
        if self.serial_first_at is None:
            self.serial_first_at = at
        for raw in self._serial_lines.add(data):
            text = raw.decode(errors="replace").strip("\r")
            if text.startswith("FASTLOAD TICK "):
                self.tick = figures(text)
                self.wrong_max = max(self.wrong_max, self.tick.get("wrong", 0))
                self.worst_us = max(self.worst_us,
                                    self.tick.get("worst_us", 0))
            self.serial.append(SerialLine(at, text))

    def say(self, byte: bytes) -> None:
        self._serial_socket.sendall(byte)

    def line_count(self) -> int:
        """How many lines have come: the start of a wait for a later one."""
        with self.changed:
            return len(self.serial)

    def wait_line(self, pattern: str, timeout: float,
                  start: int = 0) -> SerialLine:
        """The first line after index `start` that matches."""
        compiled = re.compile(pattern)
        seen = start

        def probe() -> SerialLine | None:
            nonlocal seen
            while seen < len(self.serial):
                line = self.serial[seen]
                seen += 1
                if compiled.search(line.text):
                    return line
                if line.text.startswith("FASTLOAD FAIL"):
                    raise VmError("the guest says: " + line.text[9:])
            return None
        return self.wait_for(f"'{pattern}' from the guest", probe, timeout)

    def wait_ready(self, timeout: float, start: int = 0) -> dict[str, int]:
        """Wait until memory is filled; the figures of that line."""
        return figures(self.wait_line(READY, timeout, start).text)

    def sweep(self, timeout: float = 180,
              how: bytes = SWEEP) -> dict[str, int]:
        """Have the guest check every page; {"pages": n, "wrong": n, ...}."""
        start = self.line_count()
        self.say(how)
        line = self.wait_line(r"^FASTLOAD SWEEP ", timeout, start)
        return figures(line.text)

    def verified_more(self, count: int, timeout: float = 60) -> None:
        """Wait until the guest has checked this many more pages."""
        def verified() -> int | None:
            return self.tick.get("verified")

        begin = self.wait_for("a TICK", verified, timeout)
        self.wait_for(f"{count} more verified pages",
                      lambda: (verified() or 0) - begin >= count, timeout)

    def io_goes_on(self, timeout: float = 30) -> None:
        """Wait until a virtio device has answered once more."""
        before = self.tick.get("io", 0)
        self.wait_for("virtio requests to be answered",
                      lambda: self.tick.get("io", 0) > before, timeout)

    def quiet_for(self, seconds: float) -> bool:
        """Whether the guest writes nothing for that long."""
        before = self.line_count()
        time.sleep(seconds)
        return self.line_count() == before

    def complaints(self) -> list[str]:
        """The lines that say what is wrong with its memory."""
        with self.changed:
            return [line.text for line in self.serial
                    if "WRONG" in line.text or "FAIL" in line.text]
