# SPDX-License-Identifier: GPL-2.0-or-later
"""The source package: Debian's source of QEMU, Debian's patches, and ours.

All that is ours comes from the commit that is checked out, not from the working
tree, and all times are that commit's: the same commit gives the same bytes.
Fails when a patch does not fit, before anything is built.
"""

import datetime
import difflib
import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import layout
from layout import TOP, Base, Fail, shown
from source import DebianSource, locked, run_tool
from steps import say
from tree import Tree

NAME = "qemu-fastload"
OURS = "debian/fastload"    # a checkout, inside the source package
# An alternative to an optional package: releases that lack it are older.
OPTIONAL = "base-files (<< 13~)"


# Without safe.directory, git refuses a clone that belongs to another user.
GIT = ("git", "-C", str(TOP), "-c", f"safe.directory={TOP}",
       "-c", "tar.umask=0022")


def git(*words: str) -> str:
    done = subprocess.run([*GIT, *words], check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        raise Fail(f"'git {words[0]}' failed: {done.stderr.strip()}; packages "
                   "are built from a commit, so use a git clone.")
    return done.stdout.strip()


class Commit:
    """The commit that is checked out, and the version that it has."""

    def __init__(self) -> None:
        self.short = git("rev-parse", "--short=7", "HEAD")
        self.seconds = int(git("log", "-1", "--format=%ct"))
        self.is_clean = not git("status", "--porcelain",
                                "--untracked-files=no")
        self.tags = git("tag", "--points-at", "HEAD").split()
        found = re.search(r"version: '([\d.]+)'",
                          git("show", "HEAD:meson.build"))
        if not found:
            raise Fail("meson.build does not say the project's version; "
                       "write version: 'N.N.N' there.")
        self.number = found.group(1)

    def version(self) -> str:
        """fastload's version: that of a tagged release, else one before it."""
        if f"v{self.number}" in self.tags:
            return self.number
        when = datetime.datetime.fromtimestamp(self.seconds, datetime.UTC)
        return f"{self.number}~git{when:%Y%m%d%H%M%S}.{self.short}"

    def date(self) -> str:
        """As a changelog of Debian has it."""
        when = datetime.datetime.fromtimestamp(self.seconds, datetime.UTC)
        return f"{when:%a, %d %b %Y %H:%M:%S} +0000"


class SourcePackage:
    """A source package in a folder; `dsc` is its file there."""

    def __init__(self, base: Base, tag: str, folder: Path) -> None:
        self.base = base
        self.folder = folder
        self.commit = Commit()
        self.version = f"{base.version}+fastload{self.commit.version()}+{tag}"
        self.no_epoch = self.version.split(":", 1)[-1]
        self.upstream = self.no_epoch.rsplit("-", 1)[0]
        self.dsc = f"{NAME}_{self.no_epoch}.dsc"
        self.tree = folder / f"{NAME}-{self.upstream}"

    def lay_out(self, checked: Base) -> None:
        """Everything before dpkg-source: the tree with debian/, the tarball.

        @checked: the base in a folder where patches and files are tried, as
            qemu/import does; hunks that fit elsewhere are refused there.
        """
        if not self.commit.is_clean:
            say("source", "changes that are not committed are left out")
        source = DebianSource(self.base, say)
        source.fetch()
        with locked(checked.root / ".lock"):
            tree = Tree(checked, keep_edits=False)
            tree.make(source)
            tree.install()
            tree.forget_old()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.tree.mkdir(parents=True)
        self._unpack(source)
        self._put_ours()
        self._put_patches(source, checked)
        self._put_control()
        self._put_changelog()

    def _unpack(self, source: DebianSource) -> None:
        """Debian's tarball under our name, its content untouched."""
        orig = source.dsc.parent / f"qemu_{self.upstream}.orig.tar.xz"
        ours = self.folder / f"{NAME}_{self.upstream}.orig.tar.xz"
        shutil.copyfile(orig, ours)
        self._untar(ours, self.tree)

    @staticmethod
    def _untar(archive: Path, folder: Path) -> None:
        done = run_tool(["tar", "-x", "-f", str(archive), "-C", str(folder),
                         "--strip-components=1"])
        if done.returncode:
            raise Fail(f"tar cannot unpack {archive}; free some space or "
                       "remove that file.")

    def _put_ours(self) -> None:
        ours = self.tree / OURS
        ours.mkdir(parents=True)
        done = subprocess.run([*GIT, "archive", "HEAD"], check=True,
                              stdout=subprocess.PIPE)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(ours)
        (ours / "commit").write_text(f"{self.commit.short}\n")
        for path in (ours / "packaging" / "debian").iterdir():
            path.rename(self.tree / "debian" / path.name)
        binaries = [str(path.relative_to(self.tree))
                    for path in sorted(ours.rglob("*"))
                    if path.is_file() and b"\0" in path.read_bytes()]
        (self.tree / "debian" / "source" / "include-binaries").write_text(
            "".join(f"{name}\n" for name in binaries))

    def _put_patches(self, source: DebianSource, checked: Base) -> None:
        """Debian's patches in their order, then our files, then our hooks."""
        patches = self.tree / "debian" / "patches"
        scratch = self.folder / "debian-of-qemu"
        scratch.mkdir()
        packed = next(source.dsc.parent.glob(
            source.dsc.name.removesuffix(".dsc") + ".debian.tar.*"))
        self._untar(packed, scratch)
        names = []
        for row in layout.table(scratch / "patches" / "series"):
            names.append(f"debian/{row[0]}")
            self._copy(scratch / "patches" / row[0], patches / names[-1])
        names.append("fastload/files.patch")
        (patches / "fastload").mkdir(parents=True)
        (patches / names[-1]).write_text(self._files_patch(checked))
        for patch in layout.series(self.base):
            names.append(f"fastload/{patch.name}")
            self._copy(self.tree / OURS / patch.path.relative_to(TOP),
                       patches / names[-1])
        (patches / "series").write_text("".join(f"{name}\n"
                                                for name in names))
        shutil.rmtree(scratch)

    @staticmethod
    def _copy(here: Path, there: Path) -> None:
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(here, there)

    def _files_patch(self, checked: Base) -> str:
        """Our files, and the sections that QEMU's files get at their end."""
        ours = self.tree / OURS
        parts = ["Description: fast load: files and sections of its own\n"
                 f" From commit {self.commit.short}, in {OURS}.\n"
                 "Origin: vendor\nForwarded: no\n\n"]
        for path, here in sorted(layout.own_files(self.base).items()):
            text = (ours / here.relative_to(TOP)).read_text()
            parts += self._diff("", text, "/dev/null", path)
        for path in layout.manifest()[1]:
            before = (checked.orig / path).read_text()
            text = before + (ours / path).read_text()
            parts += self._diff(before, text, f"a/{path}", path)
        return "".join(parts)

    @staticmethod
    def _diff(before: str, after: str, old_name: str, path: str) -> list[str]:
        if before and not before.endswith("\n") or not after.endswith("\n"):
            raise Fail(f"{path} does not end with a newline; add one.")
        return list(difflib.unified_diff(
            before.splitlines(keepends=True), after.splitlines(keepends=True),
            old_name, f"b/{path}"))

    def _put_control(self) -> None:
        """Fill Build-Depends from qemu/packages-all."""
        path = self.tree / "debian" / "control"
        rows = layout.table(self.tree / OURS / "qemu" / "packages-all")
        wanted = "".join(f" {row[0]}{f' | {OPTIONAL}' if row[1:] else ''},\n"
                         for row in rows)
        text = (self.tree / "debian" / "control.in").read_text()
        if " @packages-all@\n" not in text:
            raise Fail("packaging/debian/control.in has no line "
                       "' @packages-all@'; add it.")
        path.write_text(text.replace(" @packages-all@\n", wanted))
        (self.tree / "debian" / "control.in").unlink()

    def control(self) -> str:
        return (self.tree / "debian" / "control").read_text()

    def _put_changelog(self) -> None:
        maintainer = re.search(r"^Maintainer: (.*)$", self.control(), re.M)
        assert maintainer
        (self.tree / "debian" / "changelog").write_text(
            f"{NAME} ({self.version}) unstable; urgency=medium\n\n"
            f"  * fastload {self.commit.version()} in QEMU "
            f"{self.base.version} of Debian.\n\n"
            f" -- {maintainer.group(1)}  {self.commit.date()}\n")

    def describe(self) -> str:
        return f"{NAME} {self.version}, from commit {self.commit.short}, " \
            f"tried on {shown(self.base.patches)}"
