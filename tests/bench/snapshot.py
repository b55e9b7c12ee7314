# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program has generated, and changing the file of a snapshot."""

import contextlib
import os
from pathlib import Path
import shutil

from bench.stage import MIB, PAGE, Bench, Child
from snapshotfile import ram_block
from tap import Failed


def generated_by(bench: Bench, child: Child) -> Path | None:
    """The snapshot, without a name, that @child has or is generating."""
    deleted = os.fsencode(bench.temporary) + b"/fastload-bench-"
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{child.pid}/fd").iterdir():
            if os.fsencode(os.readlink(link)).startswith(deleted):
                return link
    return None


def change_generated(bench: Bench, child: Child, page: int, at: int) -> None:
    """Change a byte of the snapshot that @child has generated."""
    path = generated_by(bench, child)
    if not path:
        raise Failed("it has no snapshot open")
    block = ram_block(path)
    with path.open("r+b") as file:
        file.seek(block.pages_off + page * PAGE + at)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes((byte[0] ^ 1,)))
        os.fsync(file.fileno())


# ---- what somebody else may do to the file while it is measured

def overwrite(bench: Bench, path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(ram_block(path).pages_off + 1234 * PAGE)
        file.write(b"something else")


def replace(bench: Bench, path: Path) -> None:
    os.replace(shutil.copy(path, bench.path("other")), path)


def truncate(bench: Bench, path: Path) -> None:
    os.truncate(path, MIB)
