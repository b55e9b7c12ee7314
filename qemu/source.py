# SPDX-License-Identifier: GPL-2.0-or-later
"""Gets QEMU's source: from Debian with apt, or from a tree of the user.

Apt runs with a configuration, lists and cache of its own below the cache
folder, so the user's sources are neither used nor changed.  A source that was
downloaded before needs no network.  Knows nothing of our files and patches.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from layout import Base, Fail, cache_dir, shown, wanted_bases

Say = Callable[[str, str], None]        # a topic and what is said of it

MIRROR = os.environ.get("FASTLOAD_MIRROR", "http://deb.debian.org/debian")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_TIMEOUT_S = 1800


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Only one process at a time works below the folder of this file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def last_words(text: str) -> str:
    """The first error of apt's output, else its last line, for a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[3:] for line in lines if line.startswith("E: ")]
    return (errors[:1] or lines[-1:] or ["nothing was said"])[0].rstrip(".")


def run_tool(command: Sequence[str], *, cwd: Path | None = None,
             env: dict[str, str] | None = None,
             timeout: float | None = None
             ) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=False, text=True,
                              errors="replace", stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, cwd=cwd, env=env,
                              timeout=timeout)
    except FileNotFoundError as error:
        raise Fail(f"The program {command[0]} is not installed; run "
                   "qemu/import --install-packages.") from error
    except subprocess.TimeoutExpired as error:
        raise Fail(f"'{' '.join(map(str, command))}' did not end within "
                   f"{error.timeout:.0f} s; check the network.") from error


class Apt:
    """Apt with one suite of Debian as its only source."""

    def __init__(self, kind: str, suite: str) -> None:
        self.kind = kind                # "deb" or "deb-src"
        self.suite = suite
        self.root = cache_dir() / "apt" / f"{suite}-{kind}"
        self.config = self.root / "apt.conf"

    def update(self) -> None:
        if not KEYRING.exists():
            raise Fail(f"There is no {KEYRING}; install the package "
                       "debian-archive-keyring.")
        for folder in ("lists/partial", "cache/archives/partial", "state"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        sources = self.root / "sources.list"
        sources.write_text(f"{self.kind} [signed-by={KEYRING}] {MIRROR} "
                           f"{self.suite} main\n")
        # The version is fixed, so an expired Release file is as good, and so is
        # a mirror of the past.
        self.config.write_text(f"""\
Dir::Etc::sourcelist "{sources}";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{self.root}/state";
Dir::State::lists "{self.root}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{self.root}/cache";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::http::Timeout "30";
""")
        done = self._run("update")
        if done.returncode:
            raise Fail(f"Cannot get the package lists of Debian {self.suite} "
                       f"from {MIRROR} ({last_words(done.stdout)}): check the "
                       "network, set FASTLOAD_MIRROR to another mirror, or "
                       "QEMU_SRC to a source tree.")

    def get(self, folder: Path,
            *words: str) -> subprocess.CompletedProcess[str]:
        """Run apt-get in a folder; its exit code and what it said."""
        folder.mkdir(parents=True, exist_ok=True)
        return self._run(*words, cwd=folder)

    def _run(self, *words: str, cwd: Path | None = None
             ) -> subprocess.CompletedProcess[str]:
        env = dict(os.environ, APT_CONFIG=str(self.config), LC_ALL="C")
        return run_tool(["apt-get", "-q", *words], cwd=cwd, env=env,
                        timeout=APT_TIMEOUT_S)


def checked_files(dsc: Path) -> Iterator[tuple[str, int, str]]:
    """Name, size and SHA-256 of the files that a .dsc lists."""
    listed = re.search(r"^Checksums-Sha256:\n((?: .*\n)+)",
                       dsc.read_text(errors="replace"), re.M)
    for line in listed.group(1).splitlines() if listed else ():
        digest, size, name = line.split()
        yield name, int(size), digest


def is_whole(dsc: Path) -> bool:
    """Whether a .dsc and all its files are there, with the right content."""
    files = list(checked_files(dsc)) if dsc.exists() else []
    for name, size_bytes, digest in files:
        path = dsc.parent / name
        if not path.exists() or path.stat().st_size != size_bytes:
            return False
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return False
    return bool(files)


def downloaded(base: Base) -> Path:
    """Where the .dsc of a base is, or will be."""
    return cache_dir() / "downloads" / base.dsc


class DebianSource:
    """The source package that a base names."""

    def __init__(self, base: Base, say: Say) -> None:
        self.base = base
        self.say = say
        self.dsc = downloaded(base)
        self.stamp = f"Debian qemu {base.version}"

    def is_at_hand(self) -> bool:
        return is_whole(self.dsc)

    def fetch(self) -> None:
        with locked(cache_dir() / "downloads" / ".lock"):
            if self.is_at_hand():
                self.say("source", f"{self.stamp}, downloaded before")
                return
            self.say("source", f"{self.stamp}, downloading from {MIRROR}")
            apt = Apt("deb-src", self.base.suite)
            apt.update()
            done = apt.get(self.dsc.parent, "source", "--download-only",
                           f"qemu={self.base.version}")
            if done.returncode or not is_whole(self.dsc):
                raise Fail(f"Debian {self.base.suite} at {MIRROR} did not "
                           f"give qemu {self.base.version} "
                           f"({last_words(done.stdout)}): set QEMU_SRC to a "
                           f"tree of QEMU {self.base.name}, or "
                           "FASTLOAD_MIRROR to a mirror that has it.")

    def unpack(self, target: Path) -> None:
        done = run_tool(["dpkg-source", "--no-check", "--no-copy", "-x",
                         str(self.dsc), str(target)])
        if done.returncode:
            raise Fail(f"dpkg-source cannot unpack {self.dsc} "
                       f"({last_words(done.stdout)}): free some space or "
                       "remove that file.")


def version_of(tree: Path | str) -> str:
    try:
        return Path(tree, "VERSION").read_text().strip()
    except OSError as error:
        raise Fail(f"QEMU_SRC={tree} has no file VERSION: name the top "
                   "folder of a QEMU source tree.") from error


def no_base_for(tree: Path | str, bases: list[Base]) -> Fail:
    names = " or ".join(base.name for base in bases)
    return Fail(f"QEMU_SRC={tree} is QEMU {version_of(tree)}, the patches "
                f"are for {names}: name a tree of QEMU {names}"
                f"{', or choose another BASE' if len(bases) == 1 else ''}.")


class UserSource:
    """A tree of the user; it is copied and never changed."""

    def __init__(self, base: Base, path: str, say: Say) -> None:
        self.path = Path(path).resolve()
        self.base = base
        self.say = say
        self.stamp = ""

    def fetch(self) -> None:
        version = version_of(self.path)
        if not self.base.fits(version):
            raise no_base_for(self.path, [self.base])
        self.stamp = f"QEMU {version} in {self.path} {self._fingerprint()}"
        self.say("source", f"QEMU {version} in {self.path}")

    def unpack(self, target: Path) -> None:
        shutil.copytree(self.path, target, symlinks=True, ignore=self._leave)

    @staticmethod
    def _leave(folder: str, names: list[str]) -> list[str]:
        """The names to leave out: version control and build folders."""
        return [name for name in names if name == ".git" or
                Path(folder, name, "meson-private").is_dir()]

    def _fingerprint(self) -> str:
        """Changes when any file of the tree does, going by size and time."""
        digest = hashlib.sha256()
        for folder, folders, files in os.walk(self.path):
            left_out = self._leave(folder, folders)
            folders[:] = sorted(set(folders) - set(left_out))
            for name in sorted(files):
                path = os.path.join(folder, name)
                stat = os.lstat(path)
                digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
                              .encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]


Source = DebianSource | UserSource


def source_of(base: Base, say: Say) -> Source:
    """The user's tree where there is one, else Debian's package."""
    user_tree = os.environ.get("QEMU_SRC")
    return (UserSource(base, user_tree, say) if user_tree
            else DebianSource(base, say))


def candidates(name: str | None) -> tuple[list[Base], str]:
    """The bases to try, in order, and words that say why these.

    @name: a base the user asked for, or None.
    """
    user_tree = os.environ.get("QEMU_SRC")
    if name or not user_tree:
        return wanted_bases(name), ("as you asked for" if name else
                                    "the newest whose source can be had")
    fit = [base for base in wanted_bases(None)
           if base.fits(version_of(user_tree))]
    if not fit:
        raise no_base_for(user_tree, wanted_bases(None))
    return fit, "that of QEMU_SRC"


def fetched(name: str | None, say: Say) -> tuple[Base, Source]:
    """The base to build and its source, ready to unpack.

    @name: a base the user asked for, or None for the first that can be had.
    """
    bases, why = candidates(name)
    for base in bases:
        source = source_of(base, say)
        try:
            source.fetch()
            say("base", f"{base.name}, {why}")
            return base, source
        except Fail as fail:
            if len(bases) == 1:
                raise
            say("source", str(fail))
    raise Fail("No source can be fetched, see above: set QEMU_SRC to a tree of "
               f"QEMU {' or '.join(base.name for base in bases)}.")


def ready(name: str | None) -> tuple[list[Base], str]:
    """As `candidates`, but those that are downloaded come first."""
    bases, why = candidates(name)
    if name or os.environ.get("QEMU_SRC"):
        return bases, why
    return sorted(bases, key=lambda base: not is_whole(downloaded(base))), \
        "the newest that is built"


def pristine_file(base: Base, path: str, target: Path, say: Say) -> None:
    """Copy one file of QEMU's own source; slow, it unpacks all of that."""
    source = source_of(base, say)
    source.fetch()
    if not base.stamp.exists() or base.stamp.read_text() != source.stamp:
        raise Fail(f"{shown(base.src)} was not made from this source; run "
                   "qemu/import first.")
    scratch = base.root / "pristine"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        source.unpack(scratch)
        if not (scratch / path).is_file():
            raise Fail(f"QEMU {base.name} has no {path}: list it in "
                       "qemu/MANIFEST if it is ours.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(scratch / path, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
