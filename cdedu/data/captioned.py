"""Pictures with captions as latents with prompts: encoded once, kept in files, and memory-mapped when they are large."""

import csv
import hashlib
import io
import json
import os
import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cdedu.data.dataset import Dataset, to_unit
from cdedu.data.images import decode, has_pictures, picture_files
from cdedu.files import locked, read_header, text_of, write_tensors
from cdedu.networks.text import Chunks, Prompts

CHUNK = 256
"""Pictures, or texts, in a file of the cache."""


def read_captions(path: str | Path) -> dict[str, str]:
    """Name of a picture → its caption, from a JSON file: such a dictionary itself, or COCO's ``captions_val2014.json``, of which the
    first caption of each picture is taken (COCO has five), as of a list of captions in the other form. The file is in UTF-8 or UTF-16, with or without a byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is neither of the two.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of captions {path}")
    try:
        found = json.loads(Path(path).read_bytes())  # which finds the encoding by itself
        if {"images", "annotations"} <= set(found):
            name_of = {image["id"]: image["file_name"] for image in found["images"]}
            # Of several captions of one picture the last one would stay: the first comes last.
            found = {name_of[note["image_id"]]: note["caption"] for note in reversed(found["annotations"])}
        found = {
            name: value[0] if isinstance(value, list) and value else value for name, value in found.items()
        }
        if not all(isinstance(caption, str) for caption in found.values()):
            raise ValueError("no dictionary of texts")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wanted = 'neither {"name.png": "caption", ...} nor COCO\'s format of captions'
        raise ValueError(f"{path} is {wanted} ({error!r})") from None
    return found


Picture = Tensor | Path | Callable[[], bytes]
"""Pixels; a file; or what gives the bytes of one."""


class Pairs:
    """Pictures of one size, each with a caption, opened only when needed. Transparent ones are laid on white.

    Args:
        source: a folder of pictures with ``captions.json`` (name → caption) in it, or with ``metadata.jsonl`` or ``metadata.csv`` as
            the Hugging Face hub has them, or with a .txt or .caption file beside each picture; a parquet file, or a folder of such, with
            a column of pictures and one of texts; ``canvases``, the captioned digits that come with the course; or ``owner/name`` on the hub.
        size: height and width; pictures are scaled and cropped to it.

    Where a picture has a list of captions, the first is taken. Pictures and captions without a partner are left out, and a message says
    how many.

    Raises:
        FileNotFoundError: if there is nothing by that name.
        ValueError: for a source without captions, and captions that cannot be read.
        OSError: if a download fails.
    """

    def __init__(self, source: str, size: tuple[int, int]) -> None:
        self.source, self.size = source, size
        pairs = _open(source)
        self.names, self.pictures, self.captions = [list(column) for column in zip(*pairs, strict=True)] or (
            [[]] * 3
        )
        if not self.captions:
            raise ValueError(
                f"{source} holds no picture with a caption; each picture needs a text that is not empty"
            )

    def __len__(self) -> int:
        return len(self.captions)

    def one(self, i: int) -> Tensor:
        """One picture (3, H, W) in [−1, 1]. Raises a ValueError that names the picture if it cannot be read."""
        picture = self.pictures[i]
        x = picture if isinstance(picture, Tensor) else self._decoded(i)
        return to_unit(x).expand(3, *self.size)

    def _decoded(self, i: int) -> Tensor:
        return torch.tensor(decode(self.names[i], partial(_content, self.pictures[i]), self.size, white=True))

    def batch(self, start: int, stop: int) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1]."""
        return torch.stack([self.one(i) for i in range(start, stop)])

    def key(self, i: int) -> str:
        """A hash that changes with a picture: of its content, or, for a file, which is not opened for it, of place, size and time."""
        picture = self.pictures[i]
        if isinstance(picture, Path):
            told = picture.stat()
            return _key(os.path.realpath(picture), told.st_size, told.st_mtime_ns)
        content = picture.numpy().tobytes() if isinstance(picture, Tensor) else picture()
        return hashlib.sha256(content).hexdigest()[:32]

    def check(self, i: int) -> str | None:
        """The name of a picture whose first bytes already show that it isn't one, or None."""
        from PIL import Image

        picture = self.pictures[i]
        try:
            if not isinstance(picture, Tensor):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    file = picture if isinstance(picture, Path) else io.BytesIO(picture())
                    with Image.open(file) as opened:
                        opened.verify()
        except Exception as error:  # Pillow has many kinds
            return f"{self.names[i]} ({type(error).__name__})"
        return None


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _content(picture: Any) -> bytes:
    return picture.read_bytes() if isinstance(picture, Path) else picture()


def _open(source: str) -> list[tuple[str, Picture, str]]:
    """(name, picture, caption) of all pairs."""
    path = Path(source)
    if source == "canvases":
        from cdedu.data.canvases import canvases

        made = canvases(20_000, seed=0)
        return [("a canvas", x, text) for x, text in zip(made.images, made.captions, strict=True)]
    if path.is_dir():
        tables = sorted(path.rglob("*.parquet"))
        return _table(tables) if tables and not has_pictures(path) else _folder(path)
    if path.suffix == ".parquet" and path.is_file():
        return _table([path])
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) and not path.exists() and not path.suffix:
        return _table(_from_hub(source))
    raise FileNotFoundError(
        f"there is no {source}; give a folder of pictures with captions, a .parquet file, canvases, or owner/name on the hub"
    )


def _folder(folder: Path) -> list[tuple[str, Picture, str]]:
    names = picture_files(folder)
    known = _listed(folder) or _beside(folder, names)
    whole = {_plain(name): caption for name, caption in known.items()}
    # Some lists leave out folders or endings: such a name counts where it is one picture's alone.
    forms = {name: _forms(_plain(name)) for name in names}
    count = Counter(form for some in forms.values() for form in set(some))
    keys = {
        name: next(
            (form for form in some if form in whole and (form == some[0] or count[form] == 1)), some[0]
        )
        for name, some in forms.items()
    }
    found = [(name, whole.get(keys[name])) for name in names]
    kept = [(f"{folder}/{name}", folder / name, text) for name, value in found if (text := _first(value))]
    if not kept:
        raise ValueError(
            f'{folder} has {len(names)} pictures and no captions; add captions.json: {{"{names[0]}": "what it shows", ...}}'
        )
    without, unused = len(names) - len(kept), whole.keys() - set(keys.values())
    if without:
        _say(f"{folder}: {without:,} of {len(names):,} pictures have no caption and are left out")
    if unused:
        _say(f"{folder}: {len(unused):,} captions have no picture, such as that of {min(unused)!r:.80}")
    return kept


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _plain(name: str) -> str:
    """A name as all systems write it: with composed letters, and slashes."""
    return unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./")


def _forms(name: str) -> list[str]:
    """A picture's name, and shorter ones: without its ending, without its folder, and without both."""
    path = PurePosixPath(name)
    return [name, path.with_suffix("").as_posix(), path.name, path.stem]


def _first(value: Any) -> str:
    """A caption, the first of a list of captions, or nothing."""
    value = next(iter(value), "") if isinstance(value, list | tuple) else value
    return value.strip() if isinstance(value, str) else ""


def _listed(folder: Path) -> dict[str, Any]:
    """Name of a picture → caption, from the lists of a folder and of those in it."""
    known: dict[str, Any] = {}
    for kind, read in (("captions.json", read_captions), ("metadata.jsonl", _lines), ("metadata.csv", _rows)):
        for path in sorted(folder.rglob(kind)):
            place = path.parent.relative_to(folder)
            known |= {(place / _plain(name)).as_posix(): caption for name, caption in read(path).items()}
        if known:
            break
    return known


def _beside(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The same from a text file beside each picture."""
    files = {name: [(folder / name).with_suffix(end) for end in (".txt", ".caption")] for name in names}
    return {
        name: text_of(path).strip()
        for name, paths in files.items()
        for path in [next((path for path in paths if path.is_file()), None)]
        if path is not None
    }


def _lines(path: Path) -> dict[str, Any]:
    known = {}
    for i, line in enumerate(text_of(path).split("\n"), 1):  # not splitlines, which ends a line within a text
        try:
            if line.strip():
                row = json.loads(line)
                known[str(row["file_name"])] = row.get("text", row.get("caption"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f'{path}, line {i}: want {{"file_name": ..., "text": ...}}') from None
    return known


def _rows(path: Path) -> dict[str, Any]:
    rows = csv.DictReader(io.StringIO(text_of(path)))
    names = rows.fieldnames or []
    text = next((name for name in ("text", "caption") if name in names), None)
    if "file_name" not in names or text is None:
        raise ValueError(f"{path} has the columns {', '.join(names):.200}; want file_name and text")
    return {row["file_name"]: row[text] for row in rows if row["file_name"]}


TEXTS, IMAGES = ("text", "caption", "captions", "prompt"), ("image", "img", "jpg", "png")
"""Columns that are taken where there are several."""


def _table(paths: Sequence[Path]) -> list[tuple[str, Picture, str]]:
    """Pictures and texts of parquet files; the columns are found by what they hold."""
    import pyarrow.parquet as parquet

    pairs: list[tuple[str, Picture, str]] = []
    rows = 0
    for path in paths:
        try:
            table = parquet.read_table(path)
        except Exception as error:  # pyarrow's kinds are many
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]:.200}") from None
        kinds = {field.name: _kind(field.type) for field in table.schema}
        image, text = _column(path, kinds, "pictures", IMAGES), _column(path, kinds, "texts", TEXTS)
        rows += len(table)
        for i, (picture, told) in enumerate(zip(table[image], table[text], strict=True)):
            value, caption = picture.as_py(), _first(told.as_py())
            if caption and (value.get("bytes") if isinstance(value, dict) else value):
                pairs.append((f"{path.name}, row {i}", partial(_bytes, picture), caption))
    if len(pairs) < rows:
        _say(
            f"{paths[0]}: {rows - len(pairs):,} of {rows:,} rows lack a picture or a caption and are left out"
        )
    return pairs


def _kind(kind: Any) -> str | None:
    """Whether a column of this type of Arrow may hold pictures or texts."""
    import pyarrow.types as types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        inner = _kind(kind.value_type)
        return inner if inner == "texts" or types.is_dictionary(kind) else None
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "pictures"
    if types.is_struct(kind):
        return "pictures" if any(field.name == "bytes" for field in kind) else None
    return "texts" if types.is_string(kind) or types.is_large_string(kind) else None


def _column(path: Path, kinds: dict[str, str | None], what: str, usual: Sequence[str]) -> str:
    """The column of pictures, or of texts: one with a usual name, or the only one."""
    found = [name for name, kind in kinds.items() if kind == what]
    if named := [name for name in usual if name in found]:
        return named[0]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ValueError(
            f"{path} has the columns {', '.join(kinds)}; want one of pictures and one of texts, and it has none of {what}"
        )
    raise ValueError(
        f"{path} has several columns of {what}: {', '.join(found)}; rename the one that is meant to {usual[0]!r}"
    )


def _bytes(value: Any) -> bytes:
    found = value.as_py()
    return found["bytes"] if isinstance(found, dict) else found


def _from_hub(name: str) -> list[Path]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet"]))
    except Exception as error:  # the hub's client has many kinds
        reason = (str(error).strip().splitlines() or ["no reason is given"])[0]
        raise OSError(
            f"there is no folder {name}, nor can the data set of that name be had from the hub: {reason}"
        ) from None
    found = sorted(folder.rglob("*.parquet"))
    if not found:
        raise ValueError(f"the data set {name} on the hub has no .parquet files; give a folder of pictures")
    return found


def encoded(
    pairs: Pairs,
    cache: str | Path,
    encode: Callable[[Tensor], Tensor],
    embed: Callable[[Sequence[str]], tuple[Tensor, Tensor | None]],
    model: str,
    *,
    batch: int = 16,
    progress: Callable[..., Any] | None = None,
) -> tuple[Dataset, Prompts]:
    """Latents with labels, and the prompts that the labels mean: each picture and each different text goes through its encoder once.

    The cache knows a picture by its content, or a file by its path, size and time (:meth:`Pairs.key`). A picture that changed is encoded
    again; when one is added or removed, all others keep their latents. If interrupted, the same call picks up where it stopped.

    Args:
        cache: a folder; it can hold many data sets and models.
        encode, embed: of a :class:`~cdedu.pretrained.text_to_image.TextToImage`.
        model: what tells the encoders apart from others, such as :meth:`~cdedu.pretrained.text_to_image.TextToImage.encoders`.
        batch: pictures at once.
        progress: wraps the list of files to write (``tqdm.auto.tqdm``).

    Raises:
        ValueError: naming all pictures that cannot be read.
        OSError: if the cache cannot be written.
    """
    texts = [*sorted(set(pairs.captions)), ""]
    folder = Path(cache) / _key("rows", model, *pairs.size)[:16]
    folder.mkdir(parents=True, exist_ok=True)
    broken: list[str] = []

    def latents(some: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        pictures = {}
        for i in some:
            try:
                pictures[i] = pairs.one(i)
            except ValueError as error:
                broken.append(str(error).replace(" is no picture that can be read", ""))
        made = encode(torch.stack([*pictures.values()])).cpu() if pictures else ()
        return {i: {"latents": x} for i, x in zip(pictures, made, strict=True)}

    def prompts(some: Sequence[int]) -> dict[int, dict[str, Tensor]]:
        hidden, pooled = embed([texts[i] for i in some])
        rows = {"hidden": hidden.cpu()} | ({} if pooled is None else {"pooled": pooled.cpu()})
        return {i: {name: x[n] for name, x in rows.items()} for n, i in enumerate(some)}

    kinds = {
        "latents": ([pairs.key(i) for i in range(len(pairs))], latents),
        "prompts": ([_key(text) for text in texts], prompts),
    }
    with locked(
        folder / ".lock",
        f"run encodes for this model in {folder}; wait for its end, or give another --cache",
    ):
        parts = []
        for kind, (keys, _) in kinds.items():
            there = _places(folder, kind)
            missing = {key: i for i, key in enumerate(keys) if key not in there}
            if kind == "latents":
                broken += [text for i in missing.values() if (text := pairs.check(i))]
                _refuse(broken, pairs)
            todo = [*missing.values()]
            parts += [(kind, todo[n : n + CHUNK]) for n in range(0, len(todo), CHUNK)]
        for kind, chunk in progress(parts) if progress else parts:
            keys, make = kinds[kind]
            rows: dict[int, dict[str, Tensor]] = {}
            for n in range(0, len(chunk), batch):
                rows |= make(chunk[n : n + batch])
            if rows:
                made = [keys[i] for i in rows]
                names = next(iter(rows.values()))
                tensors = {name: torch.stack([row[name] for row in rows.values()]) for name in names}
                path = folder / f"{kind}-{_key(*made)}.safetensors"
                write_tensors(path, tensors, {"what": kind, "of": pairs.source, "keys": made})
        _refuse(broken, pairs)
        places = {kind: [_places(folder, kind)[key] for key in keys] for kind, (keys, _) in kinds.items()}
    x = torch.cat([part.float() for part in _runs(places["latents"], "latents")])
    number = {text: i for i, text in enumerate(texts)}
    labels = torch.tensor([number[caption] for caption in pairs.captions])
    with safe_open(places["prompts"][0][0], framework="pt") as file:
        has_pooled = "pooled" in file.keys()  # noqa: SIM118
    hidden = Chunks(_runs(places["prompts"], "hidden"))
    pooled = Chunks(_runs(places["prompts"], "pooled")) if has_pooled else None
    name = Path(pairs.source).name or pairs.source
    return Dataset(name, x, x[:2], labels, labels[:2]), Prompts(hidden, pooled, tuple(texts))


def _refuse(broken: Sequence[str], pairs: Pairs) -> None:
    if broken:
        more = f"; and {len(broken) - 10:,} more" * (len(broken) > 10)
        raise ValueError(
            f"{len(broken):,} of {len(pairs):,} pictures cannot be read: {'; '.join(broken[:10])}{more}. Remove or mend them; "
            "what is encoded of the others is kept"
        )


def _places(folder: Path, kind: str) -> dict[str, tuple[Path, int]]:
    """Key → the file of the cache and the row in it."""
    found = {}
    for path in sorted(folder.glob(f"{kind}-*.safetensors")):
        try:
            keys = read_header(path)["keys"]
        except ValueError:
            raise ValueError(f"{path}, a file of the cache, is damaged; remove it and run again") from None
        found |= {key: (path, row) for row, key in enumerate(keys)}
    return found


def _runs(places: Sequence[tuple[Path, int]], name: str) -> list[Tensor]:
    """The rows in their order, as few tensors as that takes: neighbors in a file are one."""
    mapped = {path: _mapped(path, name) for path in dict.fromkeys(path for path, _ in places)}
    runs: list[tuple[Path, int, int]] = []
    for path, row in places:
        if runs and runs[-1][0] == path and runs[-1][2] == row:
            runs[-1] = (path, runs[-1][1], row + 1)
        else:
            runs.append((path, row, row + 1))
    return [mapped[path][start:stop] for path, start, stop in runs]


def _mapped(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
