"""Numbers from ``results/*.json``: how a quoted value is looked up, formatted and traced to its run."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from book_contents import ROOT

RESULTS = ROOT / "results"

# {result}`digits.json:metrics.teacher.fd|.2f`  or, with the number beside it for readers of the
# bare notebook,  {result}`7.71 <digits.json:metrics.teacher.fd|.2f>`
ROLE = re.compile(r"\{result\}`([^`]+)`")
TARGET = re.compile(r"(?:(?P<shown>[^<>]*?)\s*<(?P<inner>[^<>]+)>|(?P<bare>[^<>]+))\Z")
PROVENANCE = ("command", "recipe", "seed", "commit", "hardware", "date")


class ResultError(ValueError):
    """A quoted result that cannot be found or formatted."""


@cache
def _load(path: Path, modified: float) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def load(name: str) -> dict[str, Any]:
    """The record ``results/<name>``."""
    path = RESULTS / name
    if not path.is_file():
        raise ResultError(f"no record results/{name}; run the command that writes it")
    try:
        return _load(path, path.stat().st_mtime)
    except json.JSONDecodeError as error:
        raise ResultError(f"results/{name} is not JSON: {error}") from None


def split(text: str) -> tuple[str | None, str, str, str]:
    """(number shown in the text or None, file, dotted path, format) of one role's content."""
    match = TARGET.match(text.strip())
    target = match and (match["inner"] or match["bare"])
    if not match or not target or ":" not in target:
        raise ResultError(f"{text!r} does not read as file.json:dotted.path|format")
    name, _, rest = target.partition(":")
    path, _, spec = rest.partition("|")
    return match["shown"], name.strip(), path.strip(), spec.strip()


def find(text: str) -> tuple[str, dict[str, Any]]:
    """The formatted number that ``text`` names, and where it comes from."""
    _, name, path, spec = split(text)
    node: Any = load(name)
    source = {"file": name}
    for key in path.split("."):
        if isinstance(node, dict):
            source |= {k: node[k] for k in PROVENANCE if k in node}
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            known = ", ".join(map(str, node)) if isinstance(node, dict) else type(node).__name__
            raise ResultError(f"results/{name} has no {path!r}: at {key!r} it has {known}")
    if isinstance(node, dict | list):
        raise ResultError(f"results/{name}:{path} is not a single value")
    try:
        return format(node, spec), source
    except (TypeError, ValueError):
        raise ResultError(f"results/{name}:{path} = {node!r} does not take the format {spec!r}") from None


def short(value: Any) -> str:
    """One line for an origin or a table cell: a dict becomes its values."""
    if isinstance(value, dict):
        return str(value["name"]) if "name" in value else ", ".join(f"{k} {v}" for k, v in value.items())
    return str(value)


def origin(source: dict[str, Any]) -> str:
    """``digits.json · recipe digits · seed 0 · commit a1b2c3d · 2026-01-31``, with what is known."""
    parts = [source["file"]]
    for key in ("recipe", "seed", "commit", "hardware", "date"):
        value = source.get(key)
        if value in (None, "", {}):
            continue
        text = short(value)[:10] if key in ("commit", "date") else short(value)
        parts.append(text if key in ("hardware", "date") else f"{key} {text}")
    return " · ".join(parts)


def glue(text: str) -> str:
    """``text`` with every {result} role carrying the number it names."""

    def refresh(match: re.Match[str]) -> str:
        _, name, path, spec = split(match[1])
        return f"{{result}}`{find(match[1])[0]} <{name}:{path}{'|' + spec if spec else ''}>`"

    return ROLE.sub(refresh, text)


def flatten(metrics: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """(dotted path, value) of every single value below ``metrics``."""
    if isinstance(metrics, dict):
        return [
            pair for key, value in metrics.items() for pair in flatten(value, f"{prefix}.{key}".strip("."))
        ]
    if isinstance(metrics, list):
        return [(prefix, ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in metrics))]
    return [(prefix, f"{metrics:.4g}" if isinstance(metrics, float) else metrics)]
