# SPDX-License-Identifier: GPL-2.0-or-later
"""Sphinx's settings for the package qemu-fastload-doc."""

project = "fastload"
author = "fastload developers"
extensions = ["myst_parser"]
# Sections can be linked to by the names that they have on GitHub.
myst_heading_anchors = 3
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
root_doc = "index"
highlight_language = "none"
html_theme = "alabaster"
html_theme_options = {"page_width": "auto", "nosidebar": True}
html_show_copyright = False
html_copy_source = False
html_last_updated_fmt = None
# Some headings of the notes skip a level, and some code is no language.
suppress_warnings = ["myst.header", "myst.xref_missing",
                     "misc.highlighting_failure"]
