# SPDX-License-Identifier: GPL-2.0-or-later
"""Options that several programs take, and what is said of wrong ones.

A wrong option ends the program with one sentence and the exit code 2.
"""

import argparse
import os
from pathlib import Path
from typing import Callable

import host
from guest import KERNEL_MIB
from host import PlainError
from vm import find_qemu, version


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers of at least `least`."""
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"'{text}' is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value
    return number


def check_fill(parser: argparse.ArgumentParser, mem_mib: int,
               fill_mib: int) -> None:
    if fill_mib > mem_mib - KERNEL_MIB:
        parser.error(f"{fill_mib} MiB to fill do not fit into a guest of "
                     f"{mem_mib} MiB: at most {mem_mib - KERNEL_MIB} MiB do")


def check_accel(parser: argparse.ArgumentParser, accel: str) -> None:
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        parser.error("--accel kvm needs /dev/kvm, which is missing or which "
                     "this user may not open")


def check_given_qemu(parser: argparse.ArgumentParser) -> None:
    """Check $QEMU, if it is set, as if it were an option."""
    if os.environ.get("QEMU"):
        try:
            version(find_qemu())
        except PlainError as e:
            parser.error(str(e))


def require_qemu(parser: argparse.ArgumentParser,
                 tell: Callable[[str], object] | None = None) -> str:
    """As vm.find_qemu(); the program ends unless it finds a working QEMU."""
    try:
        path = find_qemu(tell)
        version(path)
        return path
    except PlainError as e:
        parser.error(str(e))


def snapshot_folder(parser: argparse.ArgumentParser,
                    given: Path | None) -> Path:
    """The folder that --dir names, or the default; created if missing."""
    folder = given or host.cache_dir() / "guest"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        parser.error(f"cannot create the folder {folder} for snapshots: "
                     f"{e.strerror}; --dir chooses another one")
    return folder
