# SPDX-License-Identifier: GPL-2.0-or-later
"""A root folder with Debian and libvirt in it, and a World that runs in it.

The root is made once, by packaging/roots.py, and kept in the cache; nothing
changes it afterwards.  A World puts an overlay over it, which takes what is
written, and has mounts, processes and a network of its own: every process that
starts in a World ends with it.

Needs root.  Raises PlainError where something cannot be done.
"""

import contextlib
import hashlib
import os
from pathlib import Path
import subprocess
import sys
import time
from typing import IO, Iterator, Self, Sequence

import host
from host import TOP, PlainError

sys.path[:0] = [str(TOP / "packaging"), str(TOP / "qemu")]
import roots                                            # noqa: E402
from layout import Fail                                 # noqa: E402
from source import locked                               # noqa: E402

SUITE = "trixie"
PACKAGES = Path(__file__).resolve().parent / "root-packages"
INSIDE = Path(__file__).resolve().parent / "inside"
INSTALL_MAX_S = 1800
START_MAX_S = 60
END_MAX_S = 30
POLL_S = 0.02
SAID_LINES = 3              # of a tool that failed


def require_root() -> None:
    if os.geteuid() != 0:
        raise PlainError("libvirt is tested in a Debian root of its own, with "
                         "mounts of its own: run this as root")


def packages() -> list[str]:
    rows = (line.split("#", 1)[0].split()
            for line in PACKAGES.read_text().splitlines())
    return [row[0] for row in rows if row]


# ----------------------------------------------------------------- the root

def made_root() -> Path:
    """The root; made if it is missing, which takes minutes."""
    require_root()
    key = hashlib.sha256(" ".join(packages()).encode()).hexdigest()[:12]
    log = host.cache_dir() / "libvirt" / "root.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    workshop = roots.Workshop(SUITE, (), log)
    target = workshop.folder / f"libvirt-{key}"
    try:
        with locked(workshop.folder / ".lock-libvirt"):
            if not target.exists():
                draft = workshop.fresh("libvirt.new")
                draft.apt("libvirt", "update")
                draft.apt("libvirt", "install", "--no-install-recommends",
                          *packages())
                draft.apt("libvirt", "clean")
                draft.path.rename(target)
    except Fail as e:
        raise PlainError(str(e)) from None
    return target


# Installs packages in a root without changing it: what is written goes to a
# folder.  usage: sh -c INSTALL sh ROOT FOLDER PACKAGE...
INSTALL = """
set -eu
root=$1 folder=$2
shift 2
cd "$folder/merged"
mount -t overlay overlay \\
    -o "lowerdir=$root,upperdir=$folder/upper,workdir=$folder/work" .
cd "$folder/merged"
mount -t proc proc proc
cp -- "$@" tmp/
chroot . sh -c 'apt-get -q -y --no-install-recommends install /tmp/*.deb'
"""


def with_packages(root: Path, folder: Path, debs: Sequence[Path]) -> str:
    """A root for World() that has these .deb files installed as well."""
    for name in "upper", "work", "merged":
        (folder / name).mkdir(parents=True)
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSTALL,
         "sh", root, folder, *(deb.resolve() for deb in debs)],
        env=dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C"),
        check=False, text=True, errors="replace", timeout=INSTALL_MAX_S,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    if done.returncode:
        said = " | ".join(done.stdout.strip().splitlines()[-SAID_LINES:])
        raise PlainError(f"the packages cannot be installed: {said}")
    return f"{folder / 'upper'}:{root}"


# ---------------------------------------------------------------- the world

def _first_child(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(words[0]) if words else None
    return None


class World:
    """A command that runs inside the root, with all that it starts.

    root: what made_root() or with_packages() returns.
    folder: on a disk; what is written in the root goes there.  Its folder
    "shared" is /shared inside, with what the host mounts there later.
    binds: (path on the host, path inside) of files to be seen inside.
    """

    def __init__(self, root: str | Path, folder: Path,
                 binds: Sequence[tuple[str | Path, str]],
                 command: str) -> None:
        require_root()
        self.shared = folder / "shared"
        self._binds = binds
        with contextlib.ExitStack() as stack:
            for name in "shared", "upper", "work", "merged":
                (folder / name).mkdir()
            stack.enter_context(_seen_inside(self.shared))
            self.log = folder / "world.log"
            said: IO[str] = stack.enter_context(open(self.log, "w"))
            try:
                self._child = subprocess.Popen(
                    ["unshare", "--mount", "--propagation", "slave", "--pid",
                     "--fork", "--kill-child", "--net", "--ipc", "--uts",
                     "sh", INSIDE, root, folder, command,
                     *(str(word) for pair in binds for word in pair)],
                    stdin=subprocess.DEVNULL, stdout=said, stderr=said,
                    preexec_fn=host.die_with_parent)
            except FileNotFoundError:
                raise PlainError("unshare is not installed: apt-get install "
                                 "util-linux") from None
            stack.callback(self._end)
            self._wait_ready()
            self._stack = stack.pop_all()

    def _wait_ready(self) -> None:
        """Wait until tests/libvirt/inside has made all mounts."""
        until = time.monotonic() + START_MAX_S
        while not (self.shared / "ready").exists():
            if self._child.poll() is not None or time.monotonic() > until:
                raise PlainError("tests/libvirt/inside does not start: " +
                                 self.log.read_text().strip())
            time.sleep(POLL_S)
        first = _first_child(self._child.pid)
        if first is None:
            raise PlainError("tests/libvirt/inside has ended: " +
                             self.log.read_text().strip())
        self._first = first

    def enter(self, *command: str) -> list[str]:
        """A command as the host has to start it to run inside."""
        return ["nsenter", "--target", str(self._first), "--mount", "--pid",
                "--net", "--ipc", "--uts", *command]

    def alive(self) -> bool:
        return self._child.poll() is None

    def pids(self) -> list[int]:
        """All processes inside, by their numbers on the host."""
        found, left = [], [self._first]
        while left:
            pid = left.pop()
            found.append(pid)
            for task in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError):
                    left += map(int, (task / "children").read_text().split())
        return found

    def _end(self) -> None:
        self._child.kill()          # --kill-child ends all that is inside
        try:
            self._child.wait(END_MAX_S)
        except subprocess.TimeoutExpired:
            raise PlainError("a process of the tests does not end") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


@contextlib.contextmanager
def _seen_inside(folder: Path) -> Iterator[None]:
    """What is mounted below a folder appears in namespaces made later."""
    for command in (["mount", "--bind", str(folder), str(folder)],
                    ["mount", "--make-shared", str(folder)]):
        if subprocess.run(command, check=False).returncode:
            raise PlainError(f"nothing can be mounted at {folder}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)
