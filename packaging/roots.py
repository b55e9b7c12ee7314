# SPDX-License-Identifier: GPL-2.0-or-later
"""Roots of a Debian release, in which packages are built and tried.

A root is a folder that debootstrap filled.  Commands run in it with mounts and
processes of their own: what they mount or leave running is gone when they end.
From inside, only the machine's kernel is seen.  Needs root.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from layout import Fail, cache_dir
from source import KEYRING, MIRROR, last_words, locked
from steps import failed, run_logged, say

# The user who builds; it can change nothing in the root.  No user of the
# machine has that number, because files in the cache belong to it.
BUILDER = "builder"
BUILDER_ID = 99321
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HINT = "run 'apt-get install debootstrap dpkg-dev git'"

# The script of the first process in the new namespaces.  Its arguments: the
# root, USER:GROUP, pairs of paths to bind, "--", the command.
ENTER = r"""
set -eu
root=$1 who=$2
shift 2
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts \
    "$root/dev/pts"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else : >> "$root$2"; fi
    mount --bind "$1" "$root$2"
    shift 2
done
shift
exec chroot --userspec="$who" "$root" "$@"
"""

NO_SERVICES = "#!/bin/sh\nexit 101\n"
APT_OPTIONS = ("-q", "-y", "-o", "Acquire::Retries=3",
               "-o", "Dpkg::Use-Pty=0", "-o", "APT::Sandbox::User=root")


def check_machine() -> None:
    """Fail with a sentence where roots cannot be made."""
    if os.geteuid() != 0:
        raise Fail("Packages are built in a root of their own, and only the "
                   "user root can make one: run it with sudo.")
    for program in ("debootstrap", "dpkg-source", "git"):
        if not shutil.which(program):
            raise Fail(f"The program {program} is not installed: {HINT}.")
    if not KEYRING.exists():
        raise Fail(f"There is no {KEYRING}: install the package "
                   "debian-archive-keyring.")
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "mount",
                           "-t", "tmpfs", "tmpfs", "/mnt"], check=False,
                          text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    if done.returncode:
        raise Fail("This machine does not let root mount anything "
                   f"({last_words(done.stdout)}): in a container, give it "
                   "CAP_SYS_ADMIN.")


def proxy() -> dict[str, str]:
    """The machine's settings of proxies, as environment for apt in a root."""
    found = {name: os.environ[name] for name in
             ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
    done = subprocess.run(["apt-config", "shell", "x", "Acquire::http::Proxy"],
                          check=False, text=True, stdout=subprocess.PIPE)
    value = done.stdout.strip().removeprefix("x=").strip("'")
    if value and value != "DIRECT":
        found.setdefault("http_proxy", value)
    return found


class Root:
    """One root; `path` is its folder on the machine."""

    def __init__(self, path: Path, log: Path) -> None:
        self.path = path
        self.log = log

    def command(self, words: Sequence[str | Path], *, user: str = "root",
                binds: Mapping[str | Path, str] | None = None,
                env: Mapping[str, str] | None = None,
                has_network: bool = False) -> list[str]:
        """The command with which the machine runs @words in the root.

        @binds: files and folders of the machine -> their paths in the root.
        """
        who = "0:0" if user == "root" else f"{BUILDER_ID}:{BUILDER_ID}"
        pairs = [str(word) for pair in (binds or {}).items() for word in pair]
        settings = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/tmp",
                    "DEBIAN_FRONTEND": "noninteractive",
                    **(proxy() if has_network else {}), **(env or {})}
        return ["unshare", "--mount", "--pid", "--fork", "--ipc", "--uts",
                "--kill-child", *(() if has_network else ("--net",)),
                "sh", "-c", ENTER, "enter", str(self.path), who, *pairs, "--",
                "/usr/bin/env", "-i",
                *(f"{name}={value}" for name, value in settings.items()),
                *map(str, words)]

    def run(self, words: Sequence[str | Path], *, user: str = "root",
            binds: Mapping[str | Path, str] | None = None,
            env: Mapping[str, str] | None = None,
            has_network: bool = False) -> subprocess.CompletedProcess[str]:
        """Run it; its exit code and its output, which is also in the log."""
        done = subprocess.run(
            self.command(words, user=user, binds=binds, env=env,
                         has_network=has_network),
            check=False, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(map(str, words))}\n{done.stdout}")
        return done

    def step(self, topic: str, words: Sequence[str | Path], *,
             user: str = "root",
             binds: Mapping[str | Path, str] | None = None,
             env: Mapping[str, str] | None = None,
             has_network: bool = False) -> None:
        """Run a command that takes minutes, with progress; or Fail."""
        code = run_logged(topic, self.command(
            words, user=user, binds=binds, env=env, has_network=has_network),
            self.log, hint=HINT)
        if code:
            raise failed(topic, self.log)

    def apt(self, topic: str, *words: str,
            binds: Mapping[str | Path, str] | None = None) -> None:
        self.step(topic, ["apt-get", *APT_OPTIONS, *words], binds=binds,
                  has_network=True)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


class Workshop:
    """The folders of one release in the cache, and its roots.

    minimal  what debootstrap made; only copied
    build    a copy with the packages that building needs
    The others are copies that fresh() makes anew, for tests.
    """

    def __init__(self, suite: str, backports: Sequence[str], log: Path) -> None:
        self.suite = suite
        self.backports = backports
        self.log = log
        self.folder = cache_dir() / "deb" / suite
        self.ccache = self.folder / "ccache"
        self.archives = self.folder / "archives"

    def _root(self, name: str) -> Root:
        return Root(self.folder / name, self.log)

    def minimal(self) -> Root:
        """The minimal root, which is made if it is missing."""
        root = self._root("minimal")
        with locked(self.folder / ".lock"):
            if not root.path.is_dir():
                self._debootstrap(root)
        return root

    def _debootstrap(self, root: Root) -> None:
        draft = self._root("minimal.new")
        draft.remove()
        self.archives.mkdir(parents=True, exist_ok=True)
        say("root", f"Debian {self.suite} from {MIRROR}, in {root.path}")
        code = run_logged("root", [
            "debootstrap", "--variant=minbase", f"--keyring={KEYRING}",
            f"--cache-dir={self.archives}", "--include=ca-certificates",
            self.suite, draft.path, MIRROR], self.log, hint=HINT)
        if code:
            words = last_words(self.log.read_text(errors="replace"))
            raise Fail(f"Cannot make a root of Debian {self.suite} from "
                       f"{MIRROR} ({words}): check the network, or set "
                       "FASTLOAD_MIRROR to another mirror.")
        self._settings(draft)
        draft.path.rename(root.path)

    def _settings(self, root: Root) -> None:
        etc = root.path / "etc" / "apt"
        lines = [f"deb {MIRROR} {self.suite} main"]
        if self.backports:
            lines.append(f"deb {MIRROR} {self.suite}-backports main")
            (etc / "preferences.d" / "backports").write_text("".join(
                f"Package: {name}\nPin: release n={self.suite}-backports\n"
                "Pin-Priority: 600\n\n" for name in self.backports))
        (etc / "sources.list").write_text("\n".join(lines) + "\n")
        # No translations of descriptions.
        (etc / "apt.conf.d" / "90small").write_text(
            'Acquire::Languages "none";\nAPT::Install-Recommends "true";\n')
        policy = root.path / "usr" / "sbin" / "policy-rc.d"
        policy.write_text(NO_SERVICES)
        policy.chmod(0o755)
        shutil.copy("/etc/resolv.conf", root.path / "etc" / "resolv.conf")
        done = root.run(["useradd", "-m", "-u", str(BUILDER_ID), BUILDER])
        if done.returncode:
            raise Fail(f"useradd failed in the root ({done.stdout.strip()}); "
                       f"remove {root.path} and try again.")

    def fresh(self, name: str) -> Root:
        """A new copy of the minimal root; replaces a root of that name."""
        minimal = self.minimal()
        root = self._root(name)
        root.remove()
        done = subprocess.run(["cp", "-a", "--reflink=auto", minimal.path,
                               root.path], check=False, text=True,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
        if done.returncode:
            raise Fail(f"Cannot copy {minimal.path} to {root.path} "
                       f"({last_words(done.stdout)}): free some space.")
        shutil.copy("/etc/resolv.conf", root.path / "etc" / "resolv.conf")
        return root

    def archive_binds(self) -> dict[str | Path, str]:
        """Binds that keep downloaded packages for the next root."""
        return {self.archives: "/var/cache/apt/archives"}

    def build_root(self, control: str) -> Root:
        """The root with what @control names in Build-Depends, and ccache.

        It is made anew when that list has changed.
        """
        root = self._root("build")
        stamp = self.folder / "build-depends"
        found = re.search(r"^Build-Depends:.*\n([ #].*\n)*", control, re.M)
        wanted_text = found.group() if found else ""
        with locked(self.folder / ".lock-build"):
            if root.path.is_dir() and stamp.exists() and \
                    stamp.read_text() == wanted_text:
                return root
            stamp.unlink(missing_ok=True)
            root = self.fresh("build")
            wanted = root.path / "var" / "tmp" / "wanted" / "debian"
            wanted.mkdir(parents=True)
            (wanted / "control").write_text(control)
            binds = self.archive_binds()
            root.apt("packages", "update", binds=binds)
            root.apt("packages", "install", "--no-install-recommends",
                     "build-essential", "fakeroot", "ccache", binds=binds)
            root.apt("packages", "build-dep", "--no-install-recommends",
                     "/var/tmp/wanted/", binds=binds)
            shutil.rmtree(wanted.parent)
            stamp.write_text(wanted_text)
        return root
