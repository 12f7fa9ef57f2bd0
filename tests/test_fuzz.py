"""Folders, recipes and notebooks drawn at random: a right result, or an error of one or two lines that says value and place.

`HYPOTHESIS_PROFILE=weekly` tries many more.
"""

import ast
import io
import json
import os
import re
import signal
import string
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cdedu import training
from cdedu.course.checks.core import exercises
from cdedu.course.grading.notebooks import Handout, read_notebook
from cdedu.data import Dataset, images, load_data
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage, read_recipes, recipes

few = settings(
    max_examples=max(25, settings.default.max_examples // 4),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LONGEST = 60
"""Seconds that one example may take."""


class Hung(BaseException):
    """Nothing catches it by mistake."""


@contextmanager
def in_time(folder: Path | None = None) -> Iterator[None]:
    """An example that hangs fails; who waits for a pipe in the folder is let go."""

    def ring(*_: Any) -> None:
        for pipe in folder.rglob("*") if folder else ():
            if pipe.is_fifo():
                os.close(os.open(pipe, os.O_RDWR | os.O_NONBLOCK))
        raise Hung(f"more than {LONGEST} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def said(error: Exception, *places: str) -> None:
    """A message for people: at most two lines of bounded length, and one of the places is in it."""
    text = str(error)
    assert text.strip() and text.count("\n") <= 1 and len(text) < 2000, text
    assert any(place in text for place in places), text
    assert not re.search(
        r"unexpected keyword|positional argument|has no attribute|not supported between|unhashable", text
    ), text


# --- Folders of pictures ---------------------------------------------------------------------------

FORMATS = {
    "1": ["png", "bmp"], "L": ["png", "bmp", "jpg", "webp"], "LA": ["png"], "P": ["png", "bmp"], "PA": ["png"], "RGB": ["png", "bmp", "jpg", "webp"],
    "RGBA": ["png", "webp"], "CMYK": ["jpg"], "YCbCr": ["jpg"], "I;16": ["png", "tiff"], "I": ["png", "tiff"], "F": ["tiff"], "HSV": ["png"], "LAB": ["tiff"],
}  # fmt: skip
"""Modes, and formats that hold them; a TIFF is here one under the name of a PNG."""
SIDES = st.one_of(st.integers(1, 9), st.sampled_from([1, 64, 200]))
TURNS = {1: 0, 3: 2, 6: -1, 8: 1}


@st.composite
def picture(draw: st.DrawFn) -> tuple[str, bytes]:
    """An ending and the bytes of a picture."""
    mode = draw(st.sampled_from(sorted(FORMATS)))
    kind = draw(st.sampled_from(FORMATS[mode]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    height, width = draw(SIDES), draw(SIDES)
    if mode in ("I;16", "I", "F"):
        array = rng.integers(0, 65536, (height, width))
        made = Image.fromarray(array.astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    else:
        made = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        made = made.convert("P").convert("PA") if mode == "PA" else made
        if mode == "LAB":
            made = Image.frombytes("LAB", made.size, made.tobytes())
        elif mode != "PA":
            made = made.convert(mode)
        if mode in ("RGBA", "LA"):
            made.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), np.uint8)))
    options: dict[str, Any] = {}
    if mode == "P" and kind == "png" and draw(st.booleans()):
        options["transparency"] = draw(st.one_of(st.integers(0, 255), st.binary(min_size=1, max_size=8)))
    if kind in ("png", "jpg", "webp") and (turn := draw(st.sampled_from([0, 0, *TURNS, 9]))):
        exif = Image.Exif()
        exif[0x0112] = turn
        options["exif"] = exif
    if kind == "webp":
        options |= {"lossless": True, "exact": True}
    out = io.BytesIO()
    try:
        made.save(out, {"jpg": "JPEG"}.get(kind, kind.upper()), **options)
    except (OSError, ValueError):  # this Pillow does not write it
        made.convert("RGB").save(out, "PNG")
        kind = "png"
    content = out.getvalue()
    if draw(st.integers(0, 19)) == 0:
        content = content[: draw(st.integers(0, len(content) - 1))]
    return draw(st.sampled_from([kind, kind.upper()])).replace("tiff", "png").replace("TIFF", "PNG"), content


WORDS = st.one_of(
    st.sampled_from(
        [
            "cat",
            "dog",
            "Katze groß",
            "猫",
            "a.b",
            "a b",
            "-x",
            "é",
            "e\u0301",
            "0",
            "10",
            "9",
            "data-train",
            "x.png",
        ]
    ),
    st.text(string.ascii_letters + " .-_äöß猫\u202e'\"\\[]*?#%{}", min_size=1, max_size=12),
)
PLACES = st.one_of(
    WORDS, st.sampled_from([".git", ".hidden", "__MACOSX", "@eaDir", "__pycache__", "lost+found"])
)


def usable(name: str) -> bool:
    return name not in (".", "..") and len(name.encode()) < 200


@st.composite
def tree(draw: st.DrawFn, least: int = 1) -> dict[str, bytes]:
    """Names below a folder, and what is in them."""
    files: dict[str, bytes] = {}
    for ending, content in draw(st.lists(picture(), min_size=least, max_size=6)):
        parts = [p for p in draw(st.lists(PLACES, max_size=3)) if usable(p)]
        stem = draw(WORDS.filter(usable))
        name = "/".join([*parts, f"{stem}.{ending}"])
        above = {"/".join(name.split("/")[:i]) for i in range(1, len(parts) + 1)}
        if not above & files.keys() and not any(other.startswith(name + "/") for other in files):
            files[name] = content
    if draw(st.booleans()):
        files["notes.txt"] = b"no picture"
    return files


def counted(name: str) -> bool:
    """Written anew, from what the page says: an ending of pictures, nothing hidden, nothing of tools."""
    tools = {
        "__MACOSX",
        "__pycache__",
        "@eaDir",
        "@tmp",
        "@Recycle",
        "#recycle",
        "$RECYCLE.BIN",
        "lost+found",
    }
    parts = name.split("/")
    return name.lower().endswith((".png", ".jpg", ".jpeg", ".webp", ".bmp")) and not any(
        part[0] == "." or part in tools for part in parts
    )


def as_stored(content: bytes) -> np.ndarray | None:
    """The pixels (H, W, 3) of a picture, by Pillow's plain conversion; None where there is none."""
    try:
        with Image.open(io.BytesIO(content)) as found:
            found.load()
            turn = found.getexif().get(0x0112, 1)
            kind = found.format
            if found.mode.startswith("I;16") or (found.mode == "I" and kind == "PNG"):
                grey = np.asarray(found).astype(float)
                out = np.stack([np.floor(grey / 257 + 0.5).astype(np.uint8)] * 3, -1)
            elif found.mode in ("I", "F"):
                return None
            elif found.mode in ("LA", "RGBA", "PA"):
                out = np.asarray(found.convert("RGBA"))[..., :3]
            else:
                found.info.pop("transparency", None)
                out = np.asarray(found.convert("RGB"))
    except Exception:
        return None
    return np.rot90(out, TURNS.get(turn, 0))


SIZES = st.one_of(
    st.none(), st.integers(1, 12), st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([0, -3, (0, 4), (4,), (1, 2, 3), 1.5, "8", True, [4, 4], (4, 2.5), 10**9, (1, 10**12), float("nan")]),
)  # fmt: skip
FITS = st.sampled_from(["crop"] * 3 + ["pad", "stretch", "cropp", "", None])
CHANNELS = st.sampled_from([3] * 4 + [1, 1, 2, 4, "3", None, True])


def fitting(size: Any, fit: Any, channels: Any) -> bool:
    """Whether a wish makes sense, by the words of the page."""
    sides = size if isinstance(size, tuple) else (size, size)
    whole = size is None or (len(sides) == 2 and all(type(s) is int and 1 <= s <= 16384 for s in sides))
    fine = fit in ("crop", "pad", "stretch") and (size is not None or fit == "crop")
    return whole and fine and type(channels) is int and channels in (1, 3)


def leftovers(*folders: Path) -> list[Path]:
    return [p for f in folders for p in f.rglob("*") if p.suffix == ".tmp"]


def whole_files(cache: Path) -> None:
    """What stands in the cache under its last name is whole; parts say how far they are."""
    for file in cache.glob("images-*.npy"):
        assert np.load(file, mmap_mode="r").dtype == np.uint8
    assert not leftovers(cache)


@few
@given(files=tree(), as_zip=st.booleans(), size=SIZES, fit=FITS, channels=CHANNELS, shuffled=st.booleans())
def test_a_folder_of_any_pictures_is_read_as_pillow_reads_them_or_refused(
    files, as_zip, size, fit, channels, shuffled
):
    with tempfile.TemporaryDirectory() as folder, in_time(), pytest.MonkeyPatch.context() as patch:
        cache, path = Path(folder, "cache"), Path(folder, "mine.zip" if as_zip else "mine")
        patch.setattr(images, "CACHE", cache)
        if as_zip:
            with zipfile.ZipFile(path, "w") as archive:
                for name in {str(p) + "/" for n in files for p in list(Path(n).parents)[:-1]}:
                    archive.writestr(name, b"")  # folders, as many a program writes them
                for name, content in files.items():
                    archive.writestr(name, content)
        else:
            path.mkdir()
            for name, content in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        names = sorted(name for name in files if counted(name))
        stored = [as_stored(files[name]) for name in names]
        sizes = {s.shape for s in stored if s is not None}
        right = names and None not in map(type, stored) and all(s is not None for s in stored)
        right = right and fitting(size, fit, channels) and (size is not None or len(sizes) == 1)
        try:
            got = images.image_folder(path, size, shuffled, fit, channels)
        except (ValueError, OSError) as error:
            assert not right, error
            said(error, str(path), "size = ", "fit = ", "channels = ", *names)
            whole_files(cache)
            return
        assert right, (files.keys(), size, fit, channels)
        whole_files(cache)
        order = list(range(len(names)))
        if shuffled:
            order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
        classes = sorted({Path(name).parent.name for name in names})
        assert got.classes == classes
        assert got.labels.tolist() == [classes.index(Path(names[i]).parent.name) for i in order]
        for i, pixels in zip(order, got.images, strict=True):
            if size is None and channels == 3:
                assert np.array_equal(pixels.permute(1, 2, 0), stored[i]), names[i]
            elif size is None:
                assert np.array_equal(pixels[0], np.asarray(Image.fromarray(stored[i]).convert("L"))), names[
                    i
                ]
            else:
                height, width = size if isinstance(size, tuple) else (size, size)
                assert pixels.shape == (channels, height, width)
                if fit == "stretch":
                    plain = Image.fromarray(np.ascontiguousarray(stored[i])).convert(
                        "L" if channels == 1 else "RGB"
                    )
                    plain = plain.resize((width, height), Image.Resampling.LANCZOS)
                    assert np.array_equal(
                        pixels.permute(1, 2, 0).squeeze(-1) if channels == 1 else pixels.permute(1, 2, 0),
                        plain,
                    )
        again = images.image_folder(path, size, shuffled, fit, channels)
        assert again.images.equal(got.images) and again.labels.equal(got.labels)


PNG = io.BytesIO()
Image.new("RGB", (2, 2), (9, 8, 7)).save(PNG, "PNG")
LINKS = st.sampled_from(
    ["outside", "outside/deep", "inside", ".", "..", "nowhere", "self", "file", "gone.png", "pipe"]
)


@few
@given(
    links=st.dictionaries(st.sampled_from(["a", "b", "cat/c", "d.png", ".e", "cat/f.png"]), LINKS, max_size=4),
    outside=st.sets(st.sampled_from(["1.png", "deep/2.png", "deep/.3.png", "deep/more/4.png", "cat/5.png"])),
)  # fmt: skip
@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_of_all_kinds_lead_to_each_place_once_or_are_refused(links, outside):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        root, mine, other = Path(folder), Path(folder, "in", "mine"), Path(folder, "out")
        patch.setattr(images, "CACHE", root / "cache")
        for file in [
            mine / "cat" / "0.png",
            mine / "dog" / "0.png",
            other / "deep" / "x.txt",
            *(other / n for n in outside),
        ]:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(PNG.getvalue())
        targets = {"outside": other, "outside/deep": other / "deep", "inside": mine / "dog", ".": mine, "..": mine.parent,
                   "nowhere": root / "no" / "folder", "self": None, "file": mine / "cat" / "0.png", "gone.png": root / "gone.png"}  # fmt: skip
        for name, what in links.items():
            if what == "pipe":
                os.mkfifo(mine / name)
            else:
                (mine / name).symlink_to(targets[what] or mine / name)
        bad = {
            n for n, what in links.items()
            if n.endswith("png") and (what in ("nowhere", "gone.png", "self", "pipe")) and counted(n)
        }  # fmt: skip
        with in_time(mine):
            try:
                got = images.image_folder(mine)
            except (ValueError, OSError) as error:
                assert bad, error
                said(error, *bad)
                assert not leftovers(root)
                return
        assert not bad
        # Every real folder that can be reached without passing a hidden name, once; a link to a file is that file.
        real = {mine, mine / "cat", mine / "dog"}
        walk = sorted(n for n in links if not any(p[0] == "." for p in n.split("/")))
        reached = [targets[links[n]] for n in walk if links[n] in ("outside", "outside/deep", "..")]
        for top in reached:
            if top == mine.parent:
                continue
            real |= {p for p in (top, *top.rglob("*")) if p.is_dir()}
        wanted = sum(counted(p.name) for f in real for p in f.iterdir() if p.is_file() and not p.is_symlink())
        wanted += sum(links[n] == "file" and counted(n) for n in links)
        assert len(got.images) == wanted, (links, outside, got.classes)


@few
@given(train=tree(2), test=st.one_of(st.none(), tree()), size=SIZES, channels=CHANNELS)
def test_training_and_held_out_pictures_have_one_numbering(train, test, size, channels):
    with tempfile.TemporaryDirectory() as folder, in_time(), pytest.MonkeyPatch.context() as patch:
        cache, paths = (
            Path(folder, "cache"),
            {"train": Path(folder, "p-train"), "test": Path(folder, "p-test")},
        )
        patch.setattr(images, "CACHE", cache)
        for part, files in (("train", train), ("test", test or {})):
            paths[part].mkdir()
            for name, content in files.items():
                (paths[part] / name).parent.mkdir(parents=True, exist_ok=True)
                (paths[part] / name).write_bytes(content)
        try:
            got = load_data(
                str(paths["train"]), str(paths["test"]) if test is not None else None, size, "crop", channels
            )
        except (ValueError, OSError) as error:
            said(error, folder, "size = ", "fit = ", "channels = ", *train, *(test or {}))
            whole_files(cache)
            return
        assert fitting(size, "crop", channels) and isinstance(got, Dataset) and got.name == "p"
        names = sorted(n for n in train if counted(n))
        assert got.classes == tuple(sorted({Path(n).parent.name for n in names}))
        if test is None:
            held = max(1, len(names) // 10)
            order = torch.randperm(len(names), generator=torch.Generator().manual_seed(0)).tolist()
            labels = [got.classes.index(Path(names[i]).parent.name) for i in order]
            assert (got.test_labels.tolist(), got.train_labels.tolist()) == (labels[:held], labels[held:])
        else:
            theirs = [Path(n).parent.name for n in sorted(n for n in test if counted(n))]
            if got.test_labels is None:
                assert not any(theirs) and any(got.classes)
            else:
                assert [got.classes[i] for i in got.test_labels] == theirs
        assert got.train.shape[1:] == got.test.shape[1:]


# --- Recipes ----------------------------------------------------------------------------------------

PARTS = {"": Recipe, "network": Network, "teacher": TeacherStage, "student": StudentStage}
STRANGE = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 70), st.sampled_from([2**31, 2**63, 10**400, -1, 0]), st.floats(),
    st.floats(0, 2), st.text(max_size=8), st.lists(st.one_of(st.integers(-1, 64), st.floats(0, 1), st.text(max_size=2)), max_size=4),
    st.dictionaries(st.sampled_from(["mean", "std", "x", "width"]), st.one_of(st.floats(), st.text(max_size=2), st.integers(0, 9)), max_size=3),
)  # fmt: skip
CHOICES = ["mlp", "unet", "ddpmpp", "ncsnpp", "adm", "set", "easy", "continuous", "distillation", "heun", "euler", "l1", "l2",
           "pseudo_huber", "uniform", "inverse_gap", "lognormal"]  # fmt: skip


@st.composite
def changes(draw: st.DrawFn) -> dict[str, Any]:
    """Values of a recipe with some fields changed, most of them sensibly."""
    values = recipes["toy"].to_dict()
    values["network"]["width"], values["network"]["depth"] = 8, 1
    for stage in ("teacher", "student"):
        values[stage] |= {"batch": 4, "steps": 2}
    for _ in range(draw(st.integers(0, 3))):
        part = draw(st.sampled_from(sorted(PARTS)))
        place = values if not part else values[part]
        if not isinstance(place, dict):
            continue
        name = draw(st.sampled_from([f.name for f in fields(PARTS[part])] * 4 + ["lr_", ""]))
        place[name] = draw(st.one_of(STRANGE, st.sampled_from(CHOICES)))
    return values


def written(value: Any) -> str:
    """As TOML."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{json.dumps(k)} = {written(v)}" for k, v in value.items() if v is not None)
            + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)


def makes_sense(recipe: Recipe) -> None:
    """Every field has the type that it is declared with."""
    for part, kind in PARTS.items():
        thing = getattr(recipe, part) if part else recipe
        assert type(thing) is kind
        for field, example in vars(kind("x", "y") if kind is Recipe else kind()).items():
            value = getattr(thing, field)
            if isinstance(example, bool | str):
                assert type(value) is type(example), (field, value)
            elif isinstance(example, int):
                assert type(value) is int, (field, value)
            elif isinstance(example, float):
                assert type(value) in (int, float), (field, value)
            elif isinstance(example, tuple):
                assert type(value) is tuple, (field, value)


@few
@given(values=changes(), as_text=st.booleans())
def test_a_recipe_of_any_fields_is_whole_or_refused(values, as_text):
    with tempfile.TemporaryDirectory() as folder, in_time():
        path = Path(folder, "mine.toml")
        try:
            if as_text:
                name = "mine"
                body = {k: v for k, v in values.items() if k != "name" and v is not None}
                path.write_text(
                    f"[{name}]\n" + "".join(f"{json.dumps(k)} = {written(v)}\n" for k, v in body.items()),
                    encoding="utf-8",
                )
                recipe = read_recipes(path)[name]
            else:
                recipe = Recipe.from_dict(values)
        except (ValueError, OSError) as error:
            said(error, *(["mine.toml"] if as_text else ["recipe ", "Network: ", "Stage: ", "LogNormal: "]))
            return
        makes_sense(recipe)
        assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
        trains(recipe)


DATA = Dataset(
    "points",
    torch.randn(9, 2, generator=torch.Generator().manual_seed(0)) / 2,
    torch.zeros(3, 2),
    torch.arange(9) % 3,
    torch.arange(3),
)
PICTURES = Dataset(
    "pictures",
    torch.arange(6 * 3 * 64, dtype=torch.uint8).view(6, 3, 8, 8),
    torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    torch.arange(6) % 3,
    torch.arange(2),
)


def trains(recipe: Recipe) -> None:
    """One step of teacher and student where that is small: it is made, or refused with a reason."""
    net = recipe.network
    small = (
        net.width <= 64
        and net.depth <= 3
        and max((*net.multipliers, 1)) <= 4
        and len(net.multipliers) <= 4
        and net.classes <= 100
    )
    small = (
        small
        and max(recipe.teacher.batch, recipe.student.batch) <= 64
        and recipe.student.points < 1000
        and net.kind != "set"
    )
    if (
        not small
        or recipe.student.distance == "lpips"
        or recipe.student.method == "easy"
        or len(recipe.teacher.more_emas + recipe.student.more_emas) > 4
    ):
        return
    data = DATA if net.kind == "mlp" else PICTURES
    try:
        teacher = next(iter(training.train_teacher(recipe, data))).result
        state = next(iter(training.distill(recipe, teacher, data)))
    except (ValueError, OSError) as error:
        said(error, *re.findall(r"[\w.]+", str(error)))
    except FloatingPointError:
        pass  # of numbers too large for float32; it says which
    else:
        assert state.step == 1 and all(t.isfinite().all() for t in state.model.state_dict().values())


# --- Notebooks --------------------------------------------------------------------------------------

HANDED_OUT = Path(__file__).parents[1] / "exercises" / "01_noise.ipynb"
MAGICS = st.sampled_from(
    [
        "",
        "",
        "%%time\n",
        "%%capture out\n",
        "%matplotlib inline\n",
        "!ls\n",
        "%%time\n%%capture\n",
        "\n\n",
        "# mine\n",
    ]
)
ODD = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("\ud800")),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)), max_leaves=6,
)  # fmt: skip
FORMS = ["{} = 3", "{}=3", "{}: float = 3", "other, {} = 1, 2", "({}, other) = 1, 2", "other = {} = 3", "def {}(x, y=2):\n    return x", "class {}:\n    pass",
         "async def {}(x):\n    return x", "{} == 3", "other = {} == 3", "if True:\n    {} = 3", "print({}=3)", "other = lambda {}=1: 2", "# {} = 3", "{}.x = 3", "{}[0] = 3",
         "def other():\n    {} = 3", "{} += 1", "x = {}"]  # fmt: skip


@cache
def handout() -> Handout:
    return Handout(HANDED_OUT)


@st.composite
def cells(draw: st.DrawFn) -> list[Any]:
    """The cells that were handed out, changed as students and their programs change them, and others."""
    out: list[Any] = []
    for cell in json.loads(HANDED_OUT.read_text(encoding="utf-8"))["cells"]:
        what = draw(
            st.sampled_from(
                ["as it is"] * 6 + ["gone", "magic", "text", "lines", "windows", "bare", "odd", "outputs"]
            )
        )
        source = "".join(cell["source"])
        if what == "gone":
            continue
        if what == "magic" and cell["cell_type"] == "code":
            cell["source"] = draw(MAGICS) + source
        if what in ("text", "windows"):
            cell["source"] = source.replace("\n", "\r\n") if what == "windows" else source
        if what == "lines":
            cell["source"] = source.splitlines(keepends=True)
        if what == "bare":
            cell = {"cell_type": cell["cell_type"], "source": source}
        if what == "odd":
            cell[draw(st.sampled_from(["metadata", "id", "outputs", "execution_count", "attachments"]))] = (
                draw(ODD)
            )
        if what == "outputs":
            cell["outputs"] = [
                {"output_type": "stream", "name": "stdout", "text": draw(st.text(max_size=20))}
            ]
        out.append(cell)
    names = [n for exercise in handout().exercises for n in exercises()[exercise].answers]
    for _ in range(draw(st.integers(0, 4))):
        made = draw(st.sampled_from(FORMS)).format(draw(st.sampled_from(names)))
        out.insert(
            draw(st.integers(0, len(out))),
            {"cell_type": "code", "source": draw(MAGICS) + made, "metadata": {}},
        )
    if draw(st.integers(0, 3)) == 0:
        out.insert(draw(st.integers(0, len(out))), draw(ODD))
    return draw(st.permutations(out)) if draw(st.integers(0, 2)) == 0 else out


def top_level(source: str) -> set[str]:
    """The names that code gives at its top level, by Python's own parser; lines for IPython are left out."""
    plain = "\n".join(line for line in source.split("\n") if line[:1] not in ("%", "!"))
    found: set[str] = set()
    for node in ast.parse(plain).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            if isinstance(node, ast.Assign | ast.AnnAssign) and getattr(node, "value", None):
                parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
                found |= {part.id for part in parts if isinstance(part, ast.Name)}
    return found


@few
@given(
    cells=cells(), about=ODD, minor=st.sampled_from([0, 2, 4, 5, 99, None, "5"]), mark=st.sampled_from(["", "\ufeff"]),
    cut=st.sampled_from([0] * 9 + [1, 40]), major=st.sampled_from([4, 4, 4, 3, 5, None]),
)  # fmt: skip
def test_a_notebook_in_any_order_is_read_and_its_answers_are_found(cells, about, minor, mark, cut, major):
    book = {"cells": cells, "metadata": about, "nbformat": major, "nbformat_minor": minor}
    text = mark + json.dumps(book)
    with tempfile.TemporaryDirectory() as folder, in_time():
        path = Path(folder, "mine.ipynb")
        path.write_text(text[: len(text) - cut], encoding="utf-8")
        try:
            got = read_notebook(path)
        except ValueError as error:
            assert cut, error
            said(error, "is no notebook")
            return
        assert not cut
        code, markdown = [], []
        for i, cell in enumerate((c for c in cells if isinstance(c, dict)), 1):
            source = cell.get("source", "")
            source = "".join(map(str, source)) if isinstance(source, list) else str(source)
            (code if cell.get("cell_type") == "code" else markdown).append(
                (f"cell {i}", source.replace("\r\n", "\n"))
            )
        assert [c.source for c in got if c.code] == [source for _, source in code]
        run, places, remarks = handout().align(got)
        own = [one for one in run if not one[0].startswith("given")]
        assert own == code and run[len(run) - len(own) :] == own
        given_again = {source for name, source in run if name.startswith("given")}
        assert given_again <= {source for _, source in handout().given_cells}
        for name, exercise in ((n, exercises()[n]) for n in handout().exercises):
            calls = [i for i, (_, source) in enumerate(run) if f'check("{name}")' in source]
            assert places.get(name) == (calls[-1] if calls else None)
            answered = any(top_level(source) & set(exercise.answers) for _, source in run)
            said_none = [
                r
                for r in remarks
                if r.startswith("no cell answers: ") and name in r.partition(": ")[2].split(", ")
            ]
            assert answered != bool(said_none) or any(r.startswith("none of the exercises") for r in remarks)
        assert all(isinstance(r, str) and "\n" not in r for r in remarks)


@few
@given(content=st.one_of(st.binary(max_size=60), ODD.map(lambda v: json.dumps(v).encode()), ODD.map(lambda v: json.dumps({"cells": v}).encode()),
                         st.integers(1, 60_000).map(lambda n: b'{"cells": [{"id": ' + b"[" * n + b"]" * n + b"}]}")))  # fmt: skip
def test_what_is_no_notebook_is_said(content):
    with tempfile.TemporaryDirectory() as folder, in_time():
        path = Path(folder, "mine.ipynb")
        path.write_bytes(content)
        try:
            handout().align(read_notebook(path))
        except ValueError as error:
            said(error, "is no notebook", "is empty")
