# SPDX-License-Identifier: GPL-2.0-or-later
"""The sentences in C files that a user can come to see, as patterns.

A sentence is the format string of a call that reports an error, or a string
that a function returns as the reason for one.  Strings without a blank are
names, not sentences.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

# Which argument is the sentence, counted from 0.
REPORTING_CALLS = {
    "error_report": 0,
    "error_setg": 1,
    "error_setg_errno": 2,
    "g_set_error": 3,
    "incoming_load_refuse": 3,
    "load_is_readable": 1,
    "load_leaves_migration": 1,
    "load_refuse_locked": 2,
    "warn_report": 0,
}
CALL = re.compile(rf"\b({'|'.join(REPORTING_CALLS)})\(")
REASON = re.compile(r"\b(?:return|\w*(?:refusal|defect) =) ([^;]*\"[^;]*);\n")
STRING = r'"(?:[^"\\\n]|\\.)*"'
# One literal for the compiler, with macros that stand for a part of it.
LITERAL = re.compile(rf"(?:(?:{STRING}|\b(?:PRI[a-z]\w+|FASTLOAD_\w+))\s*)*"
                     rf"{STRING}(?:\s*\bFASTLOAD_\w+\b\s*{STRING})*")
TOKEN = re.compile(rf"{STRING}|[(),;]|[^\"(),;]+")
CONVERSION = re.compile(r"%[-0-9.]*(?:l|z|ll)?[a-zA-Z]|%$")
BETWEEN = ".{1,120}?"           # what a conversion may stand for


class Sentence(NamedTuple):
    line: int
    text: str               # as in the source, literals joined
    pattern: re.Pattern[str]


def _arguments(text: str, begin: int) -> list[str]:
    """Of the call whose arguments begin there."""
    found = [""]
    depth = 0
    for token in TOKEN.finditer(text, begin):
        word = token[0]
        if word == "(":
            depth += 1
        elif word == ")":
            depth -= 1
            if depth < 0:
                break
        if word == "," and not depth:
            found.append("")
        else:
            found[-1] += word
    return found


def _sentences(text: str, at: int, expression: str) -> Iterator[Sentence]:
    """Each literal of an expression: "?:" may choose between several."""
    for literal in LITERAL.finditer(expression):
        joined = re.sub(r"\b(PRI[a-z])\w+", r'"\1"', literal[0])
        joined = re.sub(r"\bFASTLOAD_\w+", '"%s"', joined)
        joined = "".join(part[1:-1] for part in re.findall(STRING, joined))
        joined = joined.replace("%PRI", "%").replace('\\"', '"')
        parts = [re.escape(part.strip(" "))
                 for part in CONVERSION.split(joined)
                 if re.search(r"\w+ \w|\w{8}", part)]
        if parts and " " in joined.strip():
            yield Sentence(text.count("\n", 0, at) + 1, joined,
                           re.compile(BETWEEN.join(parts)))


def sentences(text: str) -> Iterator[Sentence]:
    """Of the C file with this text."""
    for call in CALL.finditer(text):
        arguments = _arguments(text, call.end())
        index = REPORTING_CALLS[call[1]]
        if index < len(arguments):
            yield from _sentences(text, call.start(), arguments[index])
    for reason in REASON.finditer(text):
        if not CALL.search(reason[1]):
            yield from _sentences(text, reason.start(), reason[1])
