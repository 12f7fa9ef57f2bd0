"""Pictures with captions as latents with prompts: encoded once, kept in files, and mapped into memory where they are large."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from cdedu.data.dataset import Dataset, to_unit
from cdedu.data.images import decode, picture_files
from cdedu.files import locked, write_tensors
from cdedu.networks.text import Chunks, Prompts

CHUNK = 256
"""Pictures, or texts, in a file of the cache."""


def read_captions(path: str | Path) -> dict[str, str]:
    """Name of a picture → its caption, from a JSON file: such a dictionary itself, or COCO's ``captions_val2014.json``, of which the
    first caption of each picture is taken (COCO has five). The file is in UTF-8 or UTF-16, with or without a byte-order mark.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is neither of the two.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of captions {path}")
    try:
        found = json.loads(Path(path).read_bytes())  # which finds the encoding, as read_text does not
        if {"images", "annotations"} <= set(found):
            name_of = {image["id"]: image["file_name"] for image in found["images"]}
            # Of several captions of one picture the last one would stay: the first comes last.
            found = {name_of[note["image_id"]]: note["caption"] for note in reversed(found["annotations"])}
        if not all(isinstance(caption, str) for caption in found.values()):
            raise ValueError("no dictionary of texts")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        wanted = 'neither {"name.png": "caption", ...} nor COCO\'s format of captions'
        raise ValueError(f"{path} is {wanted} ({error!r})") from None
    return found


class Pairs:
    """Pictures of one size, each with a caption; opened when they are wanted.

    Args:
        source: a folder of pictures with ``captions.json`` (name → caption) in it, or with ``metadata.jsonl`` as the Hugging Face hub has it, or
            with a text file beside each picture; a parquet file with a column of pictures and one of texts; ``canvases``, the captioned
            digits that come with the course; or ``owner/name`` on the hub.
        size: height and width; pictures are scaled and cut to it.

    Raises:
        FileNotFoundError: if there is nothing by that name.
        ValueError: for a source without captions.
        OSError: if a download fails.
    """

    def __init__(self, source: str, size: tuple[int, int]) -> None:
        self.source, self.size = source, size
        self.pictures, self.captions = _open(source)
        if not self.captions:
            raise ValueError(f"{source} holds no picture with a caption")

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, start: int, stop: int) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1]."""
        parts = []
        for name, picture in self.pictures[start:stop]:
            x = picture if isinstance(picture, Tensor) else torch.tensor(decode(name, picture, self.size))
            parts.append(to_unit(x).expand(3, *self.size))
        return torch.stack(parts)


Picture = tuple[str, Tensor | Callable[[], bytes]]


def _open(source: str) -> tuple[Sequence[Picture], list[str]]:
    path = Path(source)
    if source == "canvases":
        from cdedu.data.canvases import canvases

        made = canvases(20_000, seed=0)
        return [("a canvas", x) for x in made.images], list(made.captions)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".parquet" and path.is_file():
        return _table([path])
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) and not path.exists() and not path.suffix:
        return _table(_from_hub(source))
    raise FileNotFoundError(
        f"there is no {source}; give a folder of pictures with captions, a .parquet file, canvases, or owner/name on the hub"
    )


def _folder(folder: Path) -> tuple[list[Picture], list[str]]:
    names = picture_files(folder)
    if (folder / "captions.json").is_file():
        known = read_captions(folder / "captions.json")
    elif (folder / "metadata.jsonl").is_file():
        known = {}
        for i, line in enumerate((folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                known[row["file_name"]] = row.get("text", row.get("caption"))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(
                    f'{folder / "metadata.jsonl"}, line {i}: want {{"file_name": ..., "text": ...}}'
                ) from None
    else:
        beside = {name: (folder / name).with_suffix(".txt") for name in names}
        known = {
            name: text.read_text(encoding="utf-8").strip() for name, text in beside.items() if text.is_file()
        }
    kept = [name for name in names if isinstance(known.get(name), str)]
    if not kept:
        raise ValueError(
            f'{folder} has {len(names)} pictures and no captions; add captions.json: {{"{names[0]}": "what it shows", ...}}'
        )
    return [(name, (folder / name).read_bytes) for name in kept], [known[name] for name in kept]


def _table(paths: Sequence[Path]) -> tuple[list[Picture], list[str]]:
    """Pictures and texts of parquet files; the columns are found by what they hold."""
    import pyarrow.parquet as parquet

    pictures: list[Picture] = []
    captions: list[str] = []
    for path in paths:
        try:
            table = parquet.read_table(path)
        except Exception as error:  # pyarrow's kinds are many
            raise ValueError(f"{path} cannot be read: {str(error).splitlines()[0]:.200}") from None
        images = [f.name for f in table.schema if str(f.type).startswith("struct") and "bytes" in str(f.type)]
        texts = [f.name for f in table.schema if str(f.type) in ("string", "large_string")]
        texts = [name for name in ("text", "caption", "prompt") if name in texts] or texts
        if not images or not texts:
            raise ValueError(
                f"{path} has the columns {', '.join(table.column_names)}; want one of pictures and one of texts"
            )
        for i, (image, text) in enumerate(zip(table[images[0]], table[texts[0]], strict=True)):
            if text.as_py() and image.as_py() and image.as_py().get("bytes"):
                pictures.append((f"{path.name}, row {i}", partial(_bytes, image)))
                captions.append(text.as_py())
    return pictures, captions


def _bytes(value: Any) -> bytes:
    return value.as_py()["bytes"]


def _from_hub(name: str) -> list[Path]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, repo_type="dataset", allow_patterns=["*.parquet"]))
    except Exception as error:  # the hub's client has many kinds
        reason = (str(error).strip().splitlines() or ["no reason is given"])[0]
        raise OSError(
            f"there is no folder {name}, nor can the data set of that name be had from the hub: {reason}"
        ) from None
    return sorted(folder.rglob("*.parquet"))


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

    The cache holds files of :data:`CHUNK`; interrupted, the same call goes on with the first that is missing.

    Args:
        cache: a folder; there may be many data sets and models in it.
        encode, embed: of a :class:`~cdedu.pretrained.text_to_image.TextToImage`.
        model: what tells the encoders apart from others.
        batch: pictures at once.
        progress: wraps the list of files to be made (``tqdm.auto.tqdm``).

    Raises:
        ValueError: for a picture that cannot be read.
        OSError: if the cache cannot be written.
    """
    texts = [*sorted(set(pairs.captions)), ""]
    about = json.dumps([model, pairs.size, len(pairs), pairs.source])
    key = hashlib.sha256((about + "\n".join(pairs.captions)).encode()).hexdigest()[:16]
    folder = Path(cache) / key
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [("latents", start, min(start + CHUNK, len(pairs))) for start in range(0, len(pairs), CHUNK)]
    prompts = [("prompts", start, min(start + CHUNK, len(texts))) for start in range(0, len(texts), CHUNK)]

    def path(part: tuple[str, int, int]) -> Path:
        return folder / f"{part[0]}-{part[1]:08d}.safetensors"

    def make(kind: str, start: int, stop: int) -> dict[str, Tensor]:
        if kind == "prompts":
            found = [embed(texts[i : min(i + batch, stop)]) for i in range(start, stop, batch)]
            pooled = [p for _, p in found if p is not None]
            more = {"pooled": torch.cat(pooled).cpu()} if pooled else {}
            return {"hidden": torch.cat([h for h, _ in found]).cpu(), **more}
        parts = [encode(pairs.batch(i, min(i + batch, stop))).cpu() for i in range(start, stop, batch)]
        return {"latents": torch.cat(parts)}

    with locked(
        folder / ".lock",
        f"another run encodes {pairs.source} in {folder}; wait for its end, or give another --cache",
    ):
        missing = [part for part in (*pictures, *prompts) if not path(part).is_file()]
        for part in progress(missing) if progress else missing:
            write_tensors(path(part), make(*part), {"what": part[0], "of": pairs.source})
    latents = torch.cat([_mapped(path(part), "latents").float() for part in pictures])
    number = {text: i for i, text in enumerate(texts)}
    labels = torch.tensor([number[caption] for caption in pairs.captions])
    hidden = Chunks([_mapped(path(part), "hidden") for part in prompts])
    with safe_open(path(prompts[0]), framework="pt") as file:
        has_pooled = "pooled" in file.keys()  # noqa: SIM118
    pooled = Chunks([_mapped(path(part), "pooled") for part in prompts]) if has_pooled else None
    name = Path(pairs.source).name or pairs.source
    return Dataset(name, latents, latents[:2], labels, labels[:2]), Prompts(hidden, pooled, tuple(texts))


def _mapped(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
