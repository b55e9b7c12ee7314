# SPDX-License-Identifier: GPL-2.0-or-later
"""The host of the tests: its memory, page cache, disks, and kernel settings.

Each context manager undoes its change at its end.  Most of them need root;
they raise Skip where the host does not permit the change.
"""

import contextlib
import ctypes
import mmap
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import tempfile
import time
from typing import IO, Callable, Iterator, Self, cast

import hostlock
from tap import Skip

TOP = Path(__file__).resolve().parent.parent.parent
PAGE_BYTES = 4096
CACHE_LEFT_BYTES_MAX = 16 << 20
DROP_TRIES = 5
MADV_POPULATE_WRITE = 23
TOUCH_HOLD_S = 2.5
MOUNT_MAX_S = 60
SERVER_END_MAX_S = 60
REMOVE_TRIES = 100          # of a control group
HUGE_MIB = 2
PTRACE_CONT, PTRACE_DETACH = 7, 17
PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000           # waitpid() knows threads


class PlainError(Exception):
    """A failure that its text explains to the user, without a traceback."""


# ------------------------------------------------------- C's own functions

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int,
                       ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p,
                         ctypes.c_void_p)


def die_with_parent() -> None:
    """For preexec_fn: the kernel ends this process when its parent ends."""
    PR_SET_PDEATHSIG = 1
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class HeldThread:
    """A thread of another process that gets no processor while it is held.

    The process cannot end before wait_end() has found that the thread has.
    """

    def __init__(self, tid: int) -> None:
        self._tid = tid
        if _libc.ptrace(PTRACE_SEIZE, tid, None, None):
            raise Skip(f"no ptrace: {os.strerror(ctypes.get_errno())}")

    def _ptrace(self, request: int) -> None:
        if _libc.ptrace(request, self._tid, None, None):
            raise OSError(ctypes.get_errno(), "ptrace")

    def hold(self) -> None:
        self._ptrace(PTRACE_INTERRUPT)
        os.waitpid(self._tid, WALL)

    def let_go(self) -> None:
        self._ptrace(PTRACE_CONT)

    def has_ended(self) -> bool:
        pid, status = os.waitpid(self._tid, WALL | os.WNOHANG)
        return pid != 0 and not os.WIFSTOPPED(status)

    def free(self) -> None:
        """Also of a thread that has ended."""
        _libc.ptrace(PTRACE_DETACH, self._tid, None, None)


def io_uring_is_permitted() -> bool:
    """By trying: sysctl, seccomp and an old kernel look the same to QEMU."""
    io_uring_setup, params_bytes = 425, 120
    fd = int(_libc.syscall(io_uring_setup, 1,
                           ctypes.create_string_buffer(params_bytes)))
    if fd < 0:
        return False
    os.close(fd)
    return True


# ----------------------------------------------------------------- folders

def cache_dir() -> Path:
    """The folder for files that take long to make: kernels, snapshots."""
    base = os.environ.get("FASTLOAD_CACHE")
    if base:
        return Path(base)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fastload"


@contextlib.contextmanager
def folder_in(place: str | Path | None = None) -> Iterator[Path]:
    """A new folder in `place`, or in /tmp; removed at the end."""
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def disk_available_mib(path: Path) -> int:
    return shutil.disk_usage(path).free >> 20


def place_for_everybody(source: str | Path, folder: Path) -> str:
    """Link or copy a file into a folder, readable for every user."""
    target = folder / Path(source).name
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    return str(target)


# -------------------------------------------------------------- page cache

def cached_bytes(path: Path) -> int:
    """How much of a file is in the page cache, by mincore()."""
    total = 0
    with open(path, "rb") as f:
        file_bytes = os.fstat(f.fileno()).st_size
        step = 1 << 30
        for file_off in range(0, file_bytes, step):
            length = min(step, file_bytes - file_off)
            # PROT_READ, MAP_SHARED: nothing is touched, so nothing is read
            at = _libc.mmap(None, length, 1, 1, f.fileno(), file_off)
            if at in (None, ctypes.c_void_p(-1).value):
                raise OSError(ctypes.get_errno(), "mmap", str(path))
            pages = (length + PAGE_BYTES - 1) // PAGE_BYTES
            vec = (ctypes.c_ubyte * pages)()
            done = _libc.mincore(at, length, vec)
            _libc.munmap(at, length)
            if done != 0:
                raise OSError(ctypes.get_errno(), "mincore", str(path))
            total += bytes(vec).count(1) * PAGE_BYTES
    return total


def drop_cache(path: Path) -> int:
    """Make a file cold; the bytes that stayed in the page cache."""
    left = 0
    for _ in range(DROP_TRIES):
        with open(path, "rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        left = cached_bytes(path)
        if left == 0:
            break
    return left


def data_extents(fd: int, file_bytes: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each piece of a file that is no hole."""
    file_off = 0
    while file_off < file_bytes:
        try:
            begin = os.lseek(fd, file_off, os.SEEK_DATA)
        except OSError:         # nothing but a hole up to the end
            return
        file_off = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, file_off


def warm_cache(path: Path) -> None:
    """Read the data of a file (not its holes) into the page cache."""
    buf = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as f:
        for begin, end in data_extents(f.fileno(),
                                       os.fstat(f.fileno()).st_size):
            f.seek(begin)
            while begin < end:
                got = f.readinto(buf)
                if not got:
                    break
                begin += got


def set_cache(path: Path, cache: str) -> None:
    """Put the file into the page cache ("warm"), or out of it ("cold")."""
    if cache == "warm":
        warm_cache(path)
    elif drop_cache(path) > CACHE_LEFT_BYTES_MAX:
        raise PlainError(f"{path} stays in the page cache: end the programs "
                         "that map it (fuser names them)")


# ------------------------------------------------------------------ memory

def number_of(text: str, field: str) -> int:
    """The number of a line such as "Rss:   12 kB" of a file in /proc."""
    found = re.search(rf"^{re.escape(field)}:\s+(\d+)", text, re.M)
    if not found:
        raise PlainError(f"the kernel does not say '{field}'")
    return int(found[1])


def memory_available_mib() -> int:
    return number_of(Path("/proc/meminfo").read_text(), "MemAvailable") >> 10


def touch_memory(mib: int) -> None:
    """Touch free memory, so that a measurement does not wait for it.

    The host of a virtual machine may take free memory back; the first touch
    after that is slow.
    """
    # First small pages, then huge ones: the kernel keeps them on other lists.
    held = []
    for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_HUGEPAGE):
        size = max(2, min(mib, memory_available_mib() * 6 // 10))
        memory = mmap.mmap(-1, size << 20,
                           mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(advice)
        memory.madvise(MADV_POPULATE_WRITE)
        held.append(memory)
    # The kernel reports free memory to the host in passes, and some kernels
    # count them.  The end of a pass is a good moment: the next pass begins two
    # seconds later.  tools/fastload-bench/measure.c does the same.
    counter = Path("/sys/module/page_reporting/parameters/passes")
    passes = counter.read_text() if counter.exists() else ""
    deadline = time.monotonic() + TOUCH_HOLD_S
    memory.madvise(mmap.MADV_DONTNEED, 0, 2 << 20)
    while time.monotonic() < deadline and \
            (not passes or counter.read_text() == passes):
        time.sleep(0.005)
    for memory in held:
        memory.close()


class HeldMemory:
    """As touch_memory(), for measurements of seconds; see hold-memory."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [TOP / "tests" / "guest" / "hold-memory"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, preexec_fn=die_with_parent)
        self._to = cast(IO[bytes], self._child.stdin)
        self._from = cast(IO[bytes], self._child.stdout)

    def _say(self, line: bytes) -> None:
        self._to.write(line)
        self._to.flush()
        if not self._from.readline():
            raise PlainError("tests/guest/hold-memory has ended; its error "
                             "is printed above")

    def hold(self) -> None:
        self._say(b"hold\n")

    def let_go(self) -> None:
        self._say(b"go\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._to.close()
        self._from.close()
        self._child.wait()


# --------------------------------------------------------- kernel settings

@contextlib.contextmanager
def setting(path: Path, value: str) -> Iterator[None]:
    """Write a value to a file of /proc/sys or /sys; undo that at the end.

    Cases of other test programs wait meanwhile, see hostlock.
    """
    with hostlock.exclusive():
        try:
            before = path.read_text()
            path.write_text(value)
        except OSError as e:
            raise Skip(f"cannot set {path}: {e.strerror}") from None
        try:
            yield
        finally:
            # A file that lists all choices has the current one in brackets.
            chosen = re.search(r"\[(\w+)\]", before)
            path.write_text(chosen[1] if chosen else before)


def sysctl(name: str, value: str) -> contextlib.AbstractContextManager[None]:
    return setting(Path("/proc/sys") / name, value)


def huge_page_figures() -> dict[str, int]:
    """Of huge pages of 2 MiB: Total, Free, Rsvd, Surp."""
    text = Path("/proc/meminfo").read_text()
    return {name: int(value) for name, value in
            re.findall(r"HugePages_(\w+):\s+(\d+)", text)}


@contextlib.contextmanager
def more_huge_pages(mib: int) -> Iterator[None]:
    """Have the kernel make this many MiB of huge pages more."""
    knob = Path("/proc/sys/vm/nr_hugepages")
    count = mib // HUGE_MIB
    with hostlock.exclusive(), \
            setting(knob, str(int(knob.read_text()) + count)):
        free = huge_page_figures()["Free"]
        if free < count:
            raise Skip(f"{free} huge pages are free, {count} are needed")
        yield


# ----------------------------------------------------------------- storage

@contextlib.contextmanager
def mounted(kind: str, folder: Path, options: str = "") -> Iterator[None]:
    """A file system without a device, such as tmpfs, until the end."""
    mount(kind, folder, options)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False)


def mount(kind: str, folder: Path, options: str = "") -> None:
    """Mount it, or change its options with "remount,..."."""
    more = ["-o", options] if options else []
    if subprocess.run(["mount", "-t", kind, *more, "none", folder],
                      check=False).returncode:
        raise Skip(f"{kind} cannot be mounted")


@contextlib.contextmanager
def loop_device(path: Path) -> Iterator[Path]:
    """A read-only block device with the bytes of a file."""
    done = subprocess.run(["losetup", "--find", "--show", "--read-only",
                           path], text=True, stdout=subprocess.PIPE,
                          check=False)
    if done.returncode:
        raise Skip("no loop device can be had")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False)


def is_open_to_everybody(path: str) -> bool:
    return os.stat(path).st_mode & 0o006 == 0o006


def end_server(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(SERVER_END_MAX_S)
    except subprocess.TimeoutExpired:   # its reads still hang
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


class NetworkStore:
    """A file that nbdkit serves and nbdfuse mounts, at self.path.

    filters: words for nbdkit: "--filter=..." and the filters' own settings.
    place: the folder in which it is mounted; /var/tmp by default.
    connections: between the two.  With one, nbdfuse sends a request only when
        it gets an answer, or when there is none to wait for: several reads
        at once take more than twice as long as one.  With several, frozen()
        and kill() are of nbdfuse alone.
    """

    def __init__(self, source: Path, *filters: str, plugin: str = "file",
                 place: Path | None = None, connections: int = 1) -> None:
        plain = [word for word in filters if word.startswith("--")]
        values = [word for word in filters if not word.startswith("--")]
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(tempfile.TemporaryFile())
            folder = stack.enter_context(folder_in(place or "/var/tmp"))
            self.path = folder / "snapshot"
            self.path.touch()
            serve: list[str | Path] = ["nbdkit", "-r", *plain]
            data: list[str | Path] = [plugin, source, *values]

            def start(*words: str | Path) -> subprocess.Popen[bytes]:
                child = subprocess.Popen(words, stderr=errors, process_group=0)
                stack.callback(end_server, child)
                return child

            def wait_for(child: subprocess.Popen[bytes],
                         is_there: Callable[[], bool]) -> None:
                until = time.monotonic() + MOUNT_MAX_S
                while not is_there():
                    if child.poll() is not None or time.monotonic() > until:
                        errors.seek(0)
                        raise Skip("nbdkit or nbdfuse does not serve: " +
                                   errors.read().decode())
                    time.sleep(0.05)

            try:
                if connections == 1:
                    self._child = start("nbdfuse", self.path, "--command",
                                        *serve, "-s", *data)
                else:
                    socket = folder / "socket"
                    wait_for(start(*serve, "-f", "-U", socket, *data),
                             socket.exists)
                    self._child = start(
                        "nbdfuse", "-C", str(connections), self.path,
                        f"nbd+unix:///?socket={socket}")
            except FileNotFoundError as e:
                raise Skip(f"{e.filename} is not installed") from None
            stack.callback(self._unmount)
            wait_for(self._child, lambda: os.path.ismount(self.path))
            self._stack = stack.pop_all()

    def limit_reads(self, count: int) -> None:
        """From here on the kernel sends the server so many reads at a time.

        Whoever asks the kernel for another one waits until one is back.
        """
        with folder_in(self.path.parent) as folder, \
                mounted("fusectl", folder):
            connection = os.minor(self.path.stat().st_dev)
            (folder / str(connection) / "max_background").write_text(
                str(count))

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """The server answers nothing, not even questions about the file."""
        self._child.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._child.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Crash the server: the mount stays, and every read fails."""
        self._child.kill()

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.path], check=False,
                       stderr=subprocess.DEVNULL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


# ----------------------------------------------------------- control groups

class ControlGroup:
    """A group of our own, in version 1 or 2, whichever has the controller."""

    TOP = Path("/sys/fs/cgroup")

    def __init__(self, controller: str) -> None:
        name = f"fastload-test-{os.getpid()}"
        new = self.TOP / "cgroup.controllers"
        is_new = new.exists() and controller in new.read_text().split()
        top = self.TOP if is_new else self.TOP / controller
        if not top.is_dir():
            raise Skip(f"there is no control group of {controller}")
        try:
            if is_new:
                (top / "cgroup.subtree_control").write_text("+" + controller)
            self.folder = top / name
            self.folder.mkdir()
        except OSError as e:
            raise Skip(f"control groups cannot be made: {e.strerror}") \
                from None

    def set(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def get(self, name: str) -> int:
        return int((self.folder / name).read_text())

    def enter(self) -> None:
        """Move this process into the group; for the preexec of a Qemu."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for _ in range(REMOVE_TRIES):   # a process in it may still be ending
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.05)
