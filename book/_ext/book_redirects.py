"""Pages that moved keep their old address: each line of `book/redirects.yml` becomes a page that leads to the new one."""

import posixpath
from html import escape
from pathlib import Path
from typing import Any

import yaml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

FILE = "book/redirects.yml"
# The script keeps the part after # of the address; the meta element serves where scripts are off.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>This page has moved</title>
<link rel="canonical" href="{url}">
<script>location.replace("{url}" + location.hash)</script>
<meta http-equiv="refresh" content="0; url={url}">
</head>
<body><p>This page has moved: <a href="{url}">{url}</a></p></body>
</html>
"""


def write_redirects(app: Sphinx, error: Exception | None) -> None:
    """The pages at the old addresses."""
    source = Path(app.srcdir, FILE)
    if error or app.builder.format != "html" or not source.is_file():
        return
    for old, new in sorted((yaml.safe_load(source.read_text(encoding="utf-8")) or {}).items()):
        if old in app.env.found_docs:
            logger.warning("%s: %s is still a page; remove the line", FILE, old)
        elif new not in app.env.found_docs:
            logger.warning("%s: %s leads to %s, which is no page", FILE, old, new)
        else:
            path = Path(app.outdir, f"{old}.html")
            path.parent.mkdir(parents=True, exist_ok=True)
            url = posixpath.relpath(f"{new}.html", posixpath.dirname(old) or ".")
            path.write_text(PAGE.format(url=escape(url)), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write_redirects)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
