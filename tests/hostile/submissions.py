"""Hostile submissions to the first set: each is a way to hold up the grader, to blind it, or to buy a grade.

A submission is a right one with something in it that is not: a cell more before the first exercise, or another answer to one of the
exercises. What must happen to each: the exercises that it may lose, and words of its row. The others lose nothing.
"""

import os
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from conftest import ROOT
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from scripts.book import exercises as script

HANDED_OUT = ROOT / "exercises" / "01_noise.ipynb"
ALL = frozenset(f"noise-{name}" for name in ("double", "floor", "weights", "stretched", "time"))


def solved(**instead: str) -> NotebookNode:
    """A right submission; ``name="code"`` replaces the answer to noise-<name>."""
    nb = nbformat.read(ROOT / "exercises" / "source" / "01_noise.ipynb", as_version=4)
    nb = script.derive(nb, "solution", "01_noise")
    name = ""
    for cell in nb.cells:
        name = cell.metadata.get("exercise", name).removeprefix("noise-")
        if "answer" in cell.metadata.get("tags", []) and name in instead:
            cell.source = instead[name]
    return nb


def with_cell(source: str, **instead: str) -> NotebookNode:
    """A right submission with a cell more, before the first exercise."""
    nb = solved(**instead)
    nb.cells.insert(3, new_code_cell(source))
    return nb


@dataclass(frozen=True)
class Hostile:
    """A submission and what must become of it."""

    make: Callable[[], NotebookNode]
    lost: frozenset[str] = frozenset()
    """Exercises that bring no points; all others bring theirs."""
    words: str = ""
    """In its row."""
    seconds: float = 0
    """By how much it may hold up a grader whose limits are those of the tests."""


def _answer(name: str, source: str, words: str = "", seconds: float = 0) -> Hostile:
    return Hostile(lambda: solved(**{name: source}), frozenset({f"noise-{name}"}), words, seconds)


def _cell(source: str, words: str = "", seconds: float = 0) -> Hostile:
    return Hostile(lambda: with_cell(source), words=words, seconds=seconds)


def _test(lines: str) -> str:
    """A test of the lent code that looks at something else than what it returns."""
    return "def test_time(denoise):\n    " + lines.strip().replace("\n", "\n    ")


TELLING = {
    "repr": "assert 'defect' not in repr(denoise).lower()",
    "name": "assert getattr(denoise, '__qualname__', '') in ('', 'object', 'denoise')",
    "order": "import random\norder = random.Random(torch.initial_seed() - 10_007).sample(range(6), 6)\n"
    "test_time.n = getattr(test_time, 'n', -1) + 1\nassert order[test_time.n % 6] < 2",
    "turns": "test_time.n = getattr(test_time, 'n', -1) + 1\nassert test_time.n % 6 < 2",
    "error": "try:\n    denoise()\nexcept Exception as error:\n    assert 'right' in str(error)",
    "closure": "assert [c for c in type(denoise).__call__.__closure__ if c.cell_contents == 'right']",
    "pickle": "import pickle\nassert b'right' in pickle.dumps(denoise)",
    "identity": "import gc\nassert id(denoise) % 3 and not gc.get_referrers(denoise)[1:]",
}
ANSWERS = {
    "large tensor": "settled_loss = torch.zeros(10**7)",
    "holds itself": "settled_loss = []\nsettled_loss.append(settled_loss)",
    "deep": "settled_loss = 0.5\nfor _ in range(300):\n    settled_loss = [settled_loss]",
    "digits": "settled_loss = 10**5000",
    "many digits": "settled_loss = 10**4000",
    "meta": "settled_loss = torch.zeros(1, device='meta')",
    "nested": "settled_loss = torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)])",
    "sparse": "settled_loss = torch.zeros(3, 3).to_sparse()",
    "long text": "settled_loss = 'x' * 30_000_000",
    "many": "settled_loss = list(range(2_000_000))",
    "broadcast": "settled_loss = torch.zeros(1).expand(10**6, 10**6)",
    "no float": "class N:\n    def __float__(self):\n        raise self.e\n    e = type('E', (Exception,), {'__str__': lambda s: 1 / 0})()\nsettled_loss = N()",
    "half a character": "settled_loss = '\\ud800'",
}
MALLOCS = """
import torch
def test_time(denoise):
    denoise(lambda x, t: x, torch.ones(1, 40_000), torch.ones(40_000))
"""
SPEAKS = """
import gc, json, os, struct, threading, time
peer = next(o for o in gc.get_objects() if type(o).__name__ == "_Notebook")
def say(text, size=None, blobs=b""):
    text = text if isinstance(text, bytes) else text.encode()
    data = struct.pack(">QQ", len(text) if size is None else size, len(blobs)) + text + blobs
    while data:
        try:
            data = data[os.write(peer.fd, data):]
        except BlockingIOError:
            time.sleep(0.001)
"""
FORGED = {
    "rubbish": "say('rubbish')",
    "size": "say('{}', 2**62)",
    "deep": "say('[' * 10**6)",
    "lists": "say('[' + '[],' * 8_000_000 + '[]]')",
    "signal": """say('{"sizes": [], "end": "", "signal": 999, "value": null}')""",
    "sizes": """say('{"sizes": ["1"], "value": null}', None, b"x")""",
    "error": """say('{"sizes": [], "error": {}, "kind": [], "message": {}}')""",
    "operation": """say('{"sizes": [], "do": ["call"], "value": {"is": "list", "of": []}}')""",
    "shape": """say('{"sizes": [0], "value": {"is": "tensor", "dtype": "float32", "shape": [0, 9007199254740992], "blob": 0, "key": null}}')""",
    "number": """say('{"sizes": [], "value": {"is": "object", "type": 5, "repr": [], "float": "nan"}}')""",
    "dict": """say('{"sizes": [], "value": {"is": "dict", "of": [[{"is": "list", "of": []}, 1]]}}')""",
}
ENDED = """say('{"sizes": [], "end": 5, "signal": 0, "value": null}')"""
FLOOD = (
    SPEAKS
    + """
while True:
    say('{"sizes": [], "do": "call", "value": {"is": "list", "of": [1, {"is": "list", "of": []}, {"is": "dict", "of": []}]}}')
"""
)
MUTE = """
class Mute(Exception):
    def __str__(self):
        raise self
raise Mute
"""
STUBBORN = """
def denoise_weighted(x, sigma, points, weights):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass
"""


def suite() -> dict[str, Hostile]:
    """Name → submission."""
    out = {f"tells by {name}": _answer("time", _test(lines)) for name, lines in TELLING.items()}
    out |= {f"answers {name}": _answer("floor", source) for name, source in ANSWERS.items()}
    out |= {
        f"forges {name}": Hostile(lambda said=said: with_cell(SPEAKS + said), ALL, "messages of its own")
        for name, said in FORGED.items()
    }
    return out | {
        "forges its end": _cell(SPEAKS + ENDED, "cell 4 ended the whole process (5)"),
        "takes memory of the grader": _answer("time", MALLOCS),
        "floods": Hostile(lambda: with_cell(FLOOD), words="cell 4", seconds=8),
        "mute": _cell(MUTE, "cell 4 raised Mute"),
        "surrogate": _cell("raise ValueError('\\udce9\\n\\x1b[2J')", "cell 4 raised ValueError"),
        "quadratic": _cell("a, " * 56_000 + "b"),
        "quadratic names": _cell("if 0:\n    pass\n" + "sigma_double , " * 12_000 + "+ 1"),
        "many cells": Hostile(lambda: _many_cells(2000), words="raised ZeroDivisionError"),
        "endless cell": _cell("while True:\n    pass", "cell 4 was stopped", 3),
        "sleeps": _cell("import time\ntime.sleep(10**6)", "cell 4 was stopped", 7),
        "endless answer": _answer("weights", STUBBORN, "did not end", 7),
        "ends": _cell("import os\nos._exit(0)", "cell 4 ended the whole process"),
        "hangs up": _cell("import os\nos.closerange(3, 256)\nos._exit(0)", "cell 4"),
        "memory": _cell("x = bytearray(4 * 10**9)", "cell 4 raised MemoryError"),
        "threads": _cell("import threading, time\nfor _ in range(10_000):\n    threading.Thread(target=time.sleep, args=(99,)).start()", "cell 4"),
        "prints": _cell("for _ in range(200):\n    print('x' * 10**6)", "printed"),
        "stack": _cell("import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    return f()\nf()", "cell 4", 4),
        "magic": Hostile(lambda: solved(double="%%time\nsigma_double = 0.87")),
    }  # fmt: skip


def _many_cells(count: int) -> NotebookNode:
    nb = solved()
    nb.cells[3:3] = [new_code_cell(f"{i} / 0") for i in range(count)]
    return nb


def odd_entries(folder: Path) -> Iterator[tuple[str, str]]:
    """Make what is no notebook among the submissions: each entry's student, and words of its row."""
    os.mkfifo(folder / "fifo.ipynb")
    yield "fifo", "is no regular file"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "socket.ipynb"))
    yield "socket", "is no regular file"
    (folder / "link.ipynb").symlink_to(HANDED_OUT)
    yield "link", "is a link"
    (folder / "nowhere.ipynb").symlink_to("/nowhere/at all")
    yield "nowhere", "is a link"
    (folder / "root").symlink_to("/")
    yield "root", "is a link"
    (folder / "loop").mkdir()
    (folder / "loop" / "loop").symlink_to("..")
    yield "loop", "is a link"
    (folder / "directory.ipynb").mkdir()
    yield "directory.ipynb", "handed in nothing"
    (folder / "broken.ipynb").write_bytes(b'{"cells": [' + b"[" * 10**5)
    yield "broken", "is not JSON"
    (folder / "flat.ipynb").write_bytes(b'{"cells": 5, "nbformat": 4}')
    yield "flat", "no list of cells"
    (folder / "lists.ipynb").write_bytes(b'{"cells": [' + b"[]," * (6 * 10**6) + b"[]]}")
    yield "lists", "none of the exercises"


def odd_names(folder: Path) -> Iterator[tuple[str, str]]:
    """Right submissions under odd names: what the table must call each student, and words of the row."""
    right = nbformat.writes(solved()).encode()
    names = {
        b"Jos\xe9.ipynb": "Jos\\xe9",
        ("\u6f22" * 82 + ".ipynb").encode(): "\u6f22" * 82,
        b"new\nline: 100 points.ipynb": "new\\x0aline: 100 points",
        "right\u202eleft.ipynb".encode(): "right\\u202eleft",
        b"=cmd.ipynb": "=cmd",
        b"<script>.ipynb": "<script>",
    }
    for name, shown in names.items():
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(right)
        yield shown, ""
    for number in (4711, 4712):
        path = folder / f"Ana P\u00e9rez_{number}_assignsubmission_file_" / "work.ipynb"
        path.parent.mkdir()
        path.write_bytes(right)
        yield f"Ana P\u00e9rez ({number})", ""


def shuffled(count: int, seed: int) -> dict[str, NotebookNode]:
    """Two or three hostile things in one notebook, by a seed: what becomes of it nobody knows, but it must be one row."""
    draw, out = random.Random(seed), {}
    cells = [MUTE, FLOOD, *(SPEAKS + said for said in FORGED.values()), "import os\nos._exit(3)"]
    for i in range(count):
        nb = solved(
            floor=draw.choice(list(ANSWERS.values())),
            time=draw.choice([MALLOCS, *map(_test, TELLING.values())]),
            **({"weights": STUBBORN} if draw.random() < 0.2 else {}),
        )
        for _ in range(draw.randint(0, 2)):
            nb.cells.insert(draw.randint(3, len(nb.cells)), new_code_cell(draw.choice(cells)))
        out[f"random {seed} {i}"] = nb
    return out
