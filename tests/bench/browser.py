# SPDX-License-Identifier: GPL-2.0-or-later
"""What a browser gets of the page: its scripts, and what it shows without."""

from html.parser import HTMLParser
import json
from pathlib import Path
import re
from typing import Any

from bench.stage import Bench, Result
from tap import check

Attributes = list[tuple[str, str | None]]


class Scripts(HTMLParser):
    """What a browser would take for scripts, and what they hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: list[tuple[dict[str, str | None], list[str]]] = []
        self.loads: list[str] = []
        self._is_script = False
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        self._is_script = tag == "script"
        if self._is_script:
            self.scripts.append((dict(attrs), []))
        for name, value in attrs:
            if name in ("src", "href", "action", "data", "srcset") and \
                    not (value or "").startswith(("data:", "#")):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._is_script = False

    def handle_data(self, data: str) -> None:
        if self._is_script:
            self.scripts[-1][1].append(data)

    def result(self) -> Result:
        found = ["".join(texts) for attrs, texts in self.scripts
                 if attrs.get("type") == "application/json"]
        check(len(found) == 1, f"{len(found)} scripts hold JSON")
        result: Result = json.loads(found[0])
        return result


class Figures(HTMLParser):
    """What the page shows before its script runs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: list[dict[str, Any]] = []
        self.shapes: list[tuple[str, str]] = []     # tag, class
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.texts: dict[str, list[str]] = {}       # by class
        self._open: list[tuple[str, str]] = []
        page = path.read_text()
        self.feed(re.sub(r"<style>.*?</style>|<script.*?</script>", "", page,
                         flags=re.S))
        self.close()

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        found = dict(attrs)
        kind = found.get("class") or ""
        self.tags.add(tag)
        self.attributes.update(found)
        self.shapes.append((tag, kind))
        if tag not in ("meta", "link", "br"):
            self._open.append((tag, kind))
        self.texts.setdefault(kind, []).append("")
        if tag == "table":
            self.tables.append({"caption": "", "columns": [], "rows": []})
        if tag == "tr":
            self.tables[-1]["rows"].append([])
        if tag in ("th", "td"):
            self.tables[-1]["rows"][-1].append(
                {"head": found.get("scope"), "text": ""})

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        data = data.replace("\u00a0", " ")
        self.text += data
        for kind in {kind for _, kind in self._open}:
            self.texts[kind][-1] += data
        tags = [tag for tag, _ in self._open]
        if "caption" in tags:
            self.tables[-1]["caption"] += data
        elif "th" in tags or "td" in tags:
            self.tables[-1]["rows"][-1][-1]["text"] += data

    def count(self, tag: str, kind: str) -> int:
        return self.shapes.count((tag, kind))

    def called(self, caption: str) -> list[dict[str, Any]]:
        return [table for table in self.tables
                if table["caption"].startswith(caption)]


def report_of(bench: Bench, result: Result) -> Figures:
    """The page of a result that a test has made."""
    page = bench.path("made-up.html")
    bench.good("report", bench.made_up(result), "--html", page)
    return Figures(page)
