# SPDX-License-Identifier: GPL-2.0-or-later
"""Other users, file systems and privileges than the usual."""

import contextlib
import os
from pathlib import Path
import pwd
import re
import resource
import shutil
import signal
from typing import Any, Iterator

from bench.stage import TINY, Bench, Done
from host import TOP, mounted
from tap import Skip, check

WITHOUT = TOP / "tests" / "without"


def is_root() -> bool:
    return os.geteuid() == 0


def copy_for_nobody(bench: Bench) -> tuple[Path, Path]:
    """A folder that every user can write to, and a copy of the program in it.

    The program itself may lie where only root can go.
    """
    folder = bench.path("nobody")
    folder.mkdir()
    program = folder / "fastload-bench"
    shutil.copy(bench.program, program)
    for path in (bench.folder, program):
        path.chmod(0o755)
    folder.chmod(0o777)
    return folder, program


def as_nobody(bench: Bench, *args: object) -> Done:
    """Run the program as another user; args[0] is an option or a command."""
    options: dict[str, Any] = {}
    if is_root():
        user = pwd.getpwnam("nobody")
        options = {"user": user.pw_uid, "group": user.pw_gid,
                   "extra_groups": []}
    folder, program = copy_for_nobody(bench)
    place = ("--dir", folder) if str(args[0]).startswith("-") else ()
    try:
        return bench.finish(bench.spawn(
            [program, *place, *args], cwd="/", **options))
    except PermissionError as e:
        raise Skip(f"the user nobody cannot enter {bench.folder}") from e


@contextlib.contextmanager
def _mounted(bench: Bench, kind: str,
             options: str = "") -> Iterator[Path]:
    if not is_root():
        raise Skip(f"only root can mount a {kind}")
    folder = bench.path(kind)
    folder.mkdir()
    with mounted(kind, folder, options):
        yield folder


def ramfs(bench: Bench) -> contextlib.AbstractContextManager[Path]:
    """A file system without O_DIRECT, whose files stay in the page cache."""
    return _mounted(bench, "ramfs")


def small_disk(bench: Bench,
               mib: int) -> contextlib.AbstractContextManager[Path]:
    """A file system that has room for this many MiB."""
    return _mounted(bench, "tmpfs", f"size={mib}m")


def with_small_files() -> None:
    """For preexec_fn: a file of more than 64 KiB fails, without a signal."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def needs_simulation(bench: Bench) -> None:
    """Skip where storage cannot be simulated."""
    if bench.simulates:
        return
    done = bench.raw(*TINY, "--size", "1M", "--working-set", "64K",
                     "--cache", "warm", "--storage", "rtt=0", "--contenders",
                     "null")
    if re.search("FUSE is refused|no simulated storage", done.err):
        raise Skip(done.err.strip())
    check(done.code == 0, f"exit code {done.code}: {done.err!r}")
    bench.simulates = True
