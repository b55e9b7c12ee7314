# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the files of this folder: bases, series, MANIFEST, patches.

Also knows the folders of each base.  Shared by import and refresh.  Changes
nothing.  Every error is a Fail whose text is one sentence for the user.
"""

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
HERE = TOP / "qemu"

HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@ ?(.*)")
# A hunk's section is the last line before it that begins like this, as with
# diff -F: a function in C, a type or a command in QAPI's schema.
SECTION = "^[[:alpha:]_]\\|^{ '"
SECTION_START = re.compile(r"[A-Za-z_]|\{ '")
SECTION_CHARS = 40
CONTEXT_LINES_MAX = 2       # of a hunk, before and after together


class Fail(Exception):
    """The text is one sentence that says what is wrong and what to do."""

    exit_code = 1


class Wrong(Fail):
    """The caller gave what cannot be: an option or a variable."""

    exit_code = 2


def shown(path: Path | str) -> str:
    """A path as the user would type it at the top of the checkout."""
    try:
        return str(Path(path).relative_to(TOP))
    except ValueError:
        return str(path)


def table(path: Path) -> list[list[str]]:
    """The rows of a plain text file: lists of words, comments left out."""
    try:
        text = path.read_text()
    except OSError as error:
        raise Fail(f"Cannot read {shown(path)}: {error.strerror}; "
                   "get it back from version control.") from error
    rows = (line.split("#", 1)[0].split() for line in text.splitlines())
    return [row for row in rows if row]


class Base:
    """One row of `bases`, and the folders that belong to it."""

    def __init__(self, name: str, suite: str, version: str,
                 patches: str) -> None:
        self.name = name
        self.suite = suite
        self.version = version
        self.patches = HERE / patches
        self._lie_in(TOP / "build-qemu" / name)

    def _lie_in(self, root: Path) -> None:
        self.root = root
        self.orig = self.root / "orig"      # QEMU's own copy of what we change
        self.src = self.root / "src"        # QEMU with our files and patches
        self.stage = self.root / "stage"    # where a series is tried first
        self.stamp = self.root / "source"   # which source src was made from
        self.state = self.root / "state.json"
        self._build_in("build")

    def _build_in(self, name: str) -> None:
        self.has_all_features = name != "build"
        self.build = self.root / name
        self.log = self.root / f"{name}.log"
        self.configured = self.root / name.replace("build", "configured")
        self.binary = self.build / "qemu-system-x86_64"

    def unpatched(self) -> "Base":
        """The same QEMU without us, in folders of its own."""
        return self.elsewhere(self.root.with_name(f"{self.name}-unpatched"))

    def with_all_features(self) -> "Base":
        """The same tree, built with all that Debian's QEMU has."""
        other = copy.copy(self)
        other._build_in("build-all")
        return other

    def elsewhere(self, root: Path) -> "Base":
        """The same QEMU in another folder."""
        other = copy.copy(self)
        other._lie_in(root)
        return other

    def builds(self) -> list[Path]:
        """The folders that the tree is built in."""
        return [self.root / "build", self.root / "build-all"]

    def fits(self, version: str) -> bool:
        """Whether a QEMU of this version is a patch release of the base."""
        return version.split(".")[:2] == self.name.split("-")[0].split(".")

    @property
    def dsc(self) -> str:
        """The name of the source package's .dsc; the epoch is not in it."""
        return f"qemu_{self.version.split(':', 1)[-1]}.dsc"


def bases() -> list[Base]:
    rows = table(HERE / "bases")
    if not rows or any(len(row) != 4 for row in rows):
        raise Fail("qemu/bases needs rows of four words: "
                   "name, suite, version, patches.")
    return [Base(*row) for row in rows]


def wanted_bases(name: str | None) -> list[Base]:
    """The bases to try, in order; just one when the user named it."""
    found = [base for base in bases() if not name or base.name == name]
    if not found:
        names = ", ".join(base.name for base in bases())
        raise Wrong(f"There is no base '{name}' in qemu/bases; "
                    f"choose one of: {names}.")
    return found


def manifest() -> tuple[list[str], list[str]]:
    """Two lists of paths: our whole files, and our sections to append."""
    whole: list[str] = []
    appended: list[str] = []
    for row in table(HERE / "MANIFEST"):
        if len(row) == 1:
            whole.append(row[0])
        elif len(row) == 2 and row[0] == "append":
            appended.append(row[1])
        else:
            raise Fail(f"qemu/MANIFEST has a line '{' '.join(row)}'; "
                       "write 'PATH' or 'append PATH'.")
    for path in whole + appended:
        if path.startswith("/") or ".." in path.split("/"):
            raise Fail(f"qemu/MANIFEST names {path}; "
                       "name a path below the top of the checkout.")
        if not (TOP / path).is_file():
            raise Fail(f"qemu/MANIFEST names {path}, which is not here; "
                       "write that file or take the line out.")
    return whole, appended


def own_files(base: Base) -> dict[str, Path]:
    """Our whole files in one base: path there -> file here.

    Those of the MANIFEST, and what lies in files/ beside the patches.
    """
    found = {path: TOP / path for path in manifest()[0]}
    more = base.patches / "files"
    for here in sorted(more.rglob("*")):
        if not here.is_file():
            continue
        path = str(here.relative_to(more))
        if path in found:
            raise Fail(f"{shown(here)} and qemu/MANIFEST both put {path} "
                       "into QEMU: keep one of them.")
        found[path] = here
    return found


class Patch:
    """One patch of a series, read apart."""

    def __init__(self, path: Path, budget: int) -> None:
        self.path = path
        self.name = path.name
        self.budget = budget
        try:
            text = path.read_text()
        except OSError as error:
            raise Fail(f"Cannot read {shown(path)}: {error.strerror}; write "
                       "it or take its line out of the series.") from error
        start = re.search(r"^(diff |--- )", text, re.M)
        self.header = text[:start.start()] if start else text
        self.files: list[str] = []      # in the order of the patch
        self.added = 0
        # file -> for each hunk: (first old line, section)
        self.hunks: dict[str, list[tuple[int, str]]] = {}
        # "file:line" of hunks with too much context
        self.wide_hunks: list[str] = []
        self._read(text[start.start():] if start else "")

    def _read(self, body: str) -> None:
        lines = iter(body.splitlines())
        path = None
        for line in lines:
            if line.startswith("+++ "):
                path = line[4:].split("\t")[0].strip().partition("/")[2]
                self.files.append(path)
            hunk = HUNK.match(line)
            if hunk and path:
                self._read_hunk(lines, hunk, path)

    def _read_hunk(self, lines: Iterator[str], hunk: re.Match[str],
                   path: str) -> None:
        self.hunks.setdefault(path, []).append(
            (int(hunk.group(1)), hunk.group(5).strip()))
        old_left = int(hunk.group(2) or 1)
        new_left = int(hunk.group(4) or 1)
        context = 0
        while old_left > 0 or new_left > 0:
            line = next(lines, None)
            if line is None:
                raise Fail(f"{shown(self.path)} ends inside a hunk of {path}; "
                           f"make it again with qemu/refresh.")
            kind = line[:1]
            if kind == "+":
                self.added += 1
                new_left -= 1
            elif kind == "-":
                old_left -= 1
            elif kind != "\\":
                context += 1
                old_left -= 1
                new_left -= 1
        if context > CONTEXT_LINES_MAX:
            self.wide_hunks.append(f"{path}:{hunk.group(1)}")

    def complaints(self) -> Iterator[str]:
        """What is wrong with the patch, as sentences."""
        if self.added > self.budget:
            yield (f"{shown(self.path)} adds {self.added} lines, its budget "
                   f"is {self.budget}: move code into files of our own, or "
                   "raise the budget in the series.")
        for place in self.wide_hunks:
            yield (f"{shown(self.path)} has more than {CONTEXT_LINES_MAX} "
                   f"context lines in the hunk at {place}: keep additions "
                   "together, or more than two lines apart.")


def section_of(lines: list[str], number: int) -> str:
    """The section of line @number, counted from 1, as a hunk's head has it."""
    for line in reversed(lines[:number - 1]):
        if SECTION_START.match(line):
            return line[:SECTION_CHARS].strip()
    return ""


def series(base: Base) -> list[Patch]:
    """The patches of a base, in order."""
    found = []
    for row in table(base.patches / "series"):
        if len(row) != 2 or not row[1].isdigit():
            raise Fail(f"{shown(base.patches / 'series')} has a line "
                       f"'{' '.join(row)}'; write 'NAME.patch BUDGET'.")
        found.append(Patch(base.patches / row[0], int(row[1])))
    return found


def features(path: Path = HERE / "features-all") -> list[tuple[str, str]]:
    """Options of configure, each with the package that it needs, or "".

    An option is left out where its package is not installed.
    """
    rows = table(path)
    if not rows or any(len(row) > 2 for row in rows):
        raise Fail(f"{shown(path)} needs rows 'OPTION' or 'OPTION PACKAGE'.")
    return [(row[0], row[1] if row[1:] else "") for row in rows]


def cache_dir() -> Path:
    path = os.environ.get("FASTLOAD_CACHE")
    if path:
        return Path(path).resolve()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fastload"
