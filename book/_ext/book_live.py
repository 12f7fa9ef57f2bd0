"""What a page loads, and what it does not.

- a page with a ``<div class="live-generator">`` gets the script and the style of the live generator;
- a page without a formula does not get MathJax (a quarter of a megabyte compressed);
- no page gets Font Awesome's script (half a megabyte): its fonts draw the same icons, see ``book/_templates``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

BOOK = Path(__file__).resolve().parents[1]
LIVE = BOOK / "_static" / "live"


def configure(app: Sphinx, config: Any) -> None:
    config.templates_path = [str(BOOK / "_templates"), *config.templates_path]  # before the themes' own


def choose_scripts(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """After all others have added their scripts to the page."""
    body = context.get("body", "")
    if 'class="math' not in body:
        context["script_files"][:] = [one for one in context["script_files"] if not _is_mathjax(one)]
    if "live-generator" in body:
        app.builder.add_css_file("live/generator.css")  # type: ignore[attr-defined]
        app.builder.add_js_file("live/generator.js", defer="defer", **live_attributes())  # type: ignore[attr-defined]


def live_attributes() -> dict[str, str]:
    """What the generator must know before it asks for anything: the size of its files, and their version."""
    manifest = (LIVE / "manifest.json").read_bytes()
    assets = json.loads(manifest)["assets"]
    size = sum(asset["bytes"] for name, asset in assets.items() if name != "frames")
    version = hashlib.sha256(manifest + (LIVE / "engine.js").read_bytes()).hexdigest()[:12]
    return {"data-megabytes": f"{size / 1e6:.1f}", "data-version": version}


def _is_mathjax(script: Any) -> bool:
    name, text = getattr(script, "filename", "") or "", getattr(script, "attributes", {}).get("body") or ""
    return "mathjax" in str(name).lower() or text.startswith("window.MathJax")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", configure)
    app.connect("html-page-context", choose_scripts, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
