"""Pictures from folders, zips and the two homes of CIFAR-10: decoded alike, cached, and refused by name where damaged."""

import errno
import hashlib
import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from cdedu import data
from cdedu.data import images
from cdedu.data.images import CIFAR10_CLASSES, cifar10, download, image_folder
from cdedu.data.pixels import is_mapped

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Nothing is read from or written to the user's cache."""
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def pixels(height: int = 6, width: int = 6, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), np.uint8).squeeze()


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_folder_and_a_zip_of_it_are_the_same_pictures_in_the_same_order(tmp_path):
    names = ["a/2.png", "a-b/1.png", "a/1.PNG", "c/deep/3.png"]
    arrays = {name: pixels() for name in names}
    files = {name: encoded(array) for name, array in arrays.items()} | {"a/notes.txt": b"no picture"}
    one = image_folder(folder_of(tmp_path / "f", files))
    two = image_folder(zip_of(tmp_path / "f.zip", files))
    assert one.images.equal(two.images) and one.labels.equal(two.labels) and one.classes == two.classes
    assert one.images.dtype == torch.uint8 and one.images.shape == (4, 3, 6, 6)
    for name, image, label in zip(sorted(names), one.images, one.labels, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), arrays[name])
        assert one.classes[label] == Path(name).parent.name


def test_modes_become_rgb(tmp_path):
    grey, colour, clear = pixels(channels=1), pixels(), pixels(channels=4)
    palette = Image.fromarray(colour).quantize(8)
    out = io.BytesIO()
    palette.save(out, "PNG", transparency=bytes(range(0, 80, 10)))
    files = {
        "1.png": encoded(grey),
        "2.png": encoded(colour),
        "3.png": encoded(clear),
        "4.png": out.getvalue(),
    }
    got = image_folder(folder_of(tmp_path / "f", files)).images.permute(0, 2, 3, 1).numpy()
    wanted = [np.stack([grey] * 3, -1), colour, clear[..., :3], np.asarray(palette.convert("RGB"))]
    assert all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_pictures_stand_upright_as_their_exif_says(tmp_path):
    array = pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    (tmp_path / "f").mkdir()
    Image.fromarray(array).save(tmp_path / "f" / "1.png", exif=exif)
    (got,) = image_folder(tmp_path / "f").images
    assert np.array_equal(got.permute(1, 2, 0), np.rot90(array, -1))


def test_sizes_that_differ_are_named_and_a_size_crops_and_resizes(tmp_path):
    left = np.zeros((8, 16, 3), np.uint8)
    left[:, 4:12] = 200  # the central square
    path = folder_of(tmp_path / "f", {"1.png": encoded(pixels(8, 8)), "2.png": encoded(left)})
    with pytest.raises(ValueError, match=r"2\.png differs in size from 1\.png; give a size"):
        image_folder(path)
    got = image_folder(path, 4).images
    assert got.shape == (2, 3, 4, 4) and (got[1].int() - 200).abs().max() < 15
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"size = {size}, but it must be a whole number of pixels"):
            image_folder(path, size)


def truncated() -> bytes:
    return encoded(pixels(64, 64))[:2000]


@pytest.mark.parametrize("asked", [None, "~/here", "~nobody-of-this-name/here"])
def test_who_has_no_home_has_a_cache_all_the_same(monkeypatch, asked):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.delenv("CDEDU_CACHE", raising=False)
    if asked:
        monkeypatch.setenv("CDEDU_CACHE", asked)
    assert images._cache() == Path(tempfile.gettempdir()) / "cdedu"


@pytest.mark.parametrize("content", [b"", b"no picture", truncated()], ids=["empty", "text", "truncated"])
@pytest.mark.parametrize("make", [folder_of, zip_of])
def test_a_damaged_picture_is_named(tmp_path, content, make):
    path = make(tmp_path / "p.zip", {"a/good.png": encoded(pixels(64, 64)), "a/bad.png": content})
    with pytest.raises(ValueError, match=r"a/bad\.png is no picture that can be read"):
        image_folder(path)


def test_a_zip_with_a_flipped_byte_is_named(tmp_path):
    content = encoded(pixels())
    path = zip_of(tmp_path / "p.zip", {"a.png": content})
    whole = path.read_bytes()
    at = whole.index(content) + len(content) - 1
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
    with pytest.raises(ValueError, match=r"a\.png is no picture that can be read \(Bad CRC"):
        image_folder(path)


def test_what_is_not_there_or_holds_no_picture_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder or zip .*gone\.zip"):
        image_folder(tmp_path / "gone.zip")
    with pytest.raises(FileNotFoundError, match=r"holds no picture \(\.bmp, \.jpeg, \.jpg, \.png, \.webp\)"):
        image_folder(folder_of(tmp_path / "f", {"a.txt": b""}))
    (tmp_path / "x.zip").write_bytes(b"PK not a zip")
    with pytest.raises(ValueError, match=r"x\.zip is neither a folder nor a zip, or the zip is damaged"):
        image_folder(tmp_path / "x.zip")


@pytest.mark.parametrize("make", [folder_of, zip_of])
def test_what_systems_and_tools_leave_behind_is_no_data(tmp_path, make):
    names = "a/._1.png __MACOSX/a/._1.png __MACOSX/2.png .git/3.png .ipynb_checkpoints/1.png b/.cache/x/4.png b/@eaDir/1.png/5.png"
    files = {name: encoded(pixels()) for name in [*names.split(), ".6.png", "$RECYCLE.BIN/7.png"]}
    files |= {
        "Thumbs.db": b"",
        "a/Thumbs.db": b"",
        "a/1.png": encoded(pixels()),
        "b/1.png": encoded(pixels()),
    }
    got = image_folder(make(tmp_path / ".hidden" / "p.zip", files))
    assert len(got.images) == 2 and got.classes == ["a", "b"], (
        "how the folder itself is called is nobody's business"
    )


def test_links_to_class_folders_are_followed_and_circles_end(tmp_path):
    far = folder_of(tmp_path / "far", {"dog/1.png": encoded(pixels()), "dog/deep/2.png": encoded(pixels())})
    path = folder_of(tmp_path / "f", {"cat/1.png": encoded(pixels())})
    (path / "dog").symlink_to(far / "dog", target_is_directory=True)
    (path / "a-cat").symlink_to("cat")  # what lies here already, before its own name in the alphabet
    (path / "cat" / "again").symlink_to(path)
    (far / "dog" / "circle").symlink_to(far / "dog")
    (path / "picture.png").symlink_to(far / "dog" / "1.png")
    got = image_folder(path)
    assert [got.classes[i] for i in got.labels] == ["cat", "dog", "deep", ""]
    assert images.picture_files(path) == ["cat/1.png", "dog/1.png", "dog/deep/2.png", "picture.png"]


RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


def saved(array: np.ndarray, kind: str, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(
    "content, mode",
    [
        (saved(RAMP, "PNG"), "I;16"),
        (saved(RAMP, "TIFF"), "I;16"),
        (saved(RAMP.astype(">u2"), "TIFF"), "I;16B"),
        (saved((RAMP >> 8).astype(np.uint8), "PNG"), "L"),
    ],
    ids=["PNG", "TIFF", "TIFF, other byte order", "8 bits"],
)
def test_grey_values_of_16_bits_are_scaled_to_8(content, mode):
    assert Image.open(io.BytesIO(content)).mode == mode
    got = images.decode("ramp.png", lambda: content)
    wanted = RAMP >> 8 if mode == "L" else np.round(RAMP / 257)
    assert got.shape == (3, 8, 8) and all(np.array_equal(channel, wanted) for channel in got)


def test_a_grey_png_is_of_16_bits_also_where_pillow_calls_its_values_integers():
    got = images._eight_bits(Image.fromarray(RAMP.astype(np.int32)), "PNG")
    assert got.mode == "L" and np.array_equal(got, np.round(RAMP / 257))


@pytest.mark.parametrize("dtype, mode", [(np.int32, "I"), (np.float32, "F")])
def test_grey_values_without_a_known_white_are_refused(dtype, mode):
    content = saved(RAMP.astype(dtype), "TIFF")
    with pytest.raises(
        ValueError, match=rf"ramp.png is no .*of mode {mode}, have no known range; save it with"
    ):
        images.decode("ramp.png", lambda: content)


def test_the_cache_is_used_the_second_time_and_made_anew_when_a_file_changes(tmp_path, monkeypatch, cache):
    path = folder_of(tmp_path / "f", {"a/1.png": encoded(pixels()), "b/2.png": encoded(pixels())})
    calls, decode = [], images.decode
    monkeypatch.setattr(images, "decode", lambda name, *rest: (calls.append(name), decode(name, *rest))[1])
    first, again = image_folder(path), image_folder(path)
    assert set(calls) == {f"{path}/a/1.png", f"{path}/b/2.png"} and again.images.equal(first.images)
    assert again.labels.tolist() == [0, 1] and again.classes == ["a", "b"]
    new = pixels()
    (path / "a/1.png").write_bytes(encoded(new))
    os.utime(path / "a/1.png", (1, 1))
    calls.clear()
    assert np.array_equal(image_folder(path).images[0].permute(1, 2, 0), new) and len(calls) == 3
    assert len(image_folder(path, 3).images[0, 0]) == 3 and len(calls) == 6, (
        "the first, which has the size, twice"
    )


@pytest.mark.parametrize("left", [0, 50, 150])
def test_a_cached_file_that_is_cut_off_is_named(tmp_path, cache, left):
    path = folder_of(tmp_path / "f", {"a/1.png": encoded(pixels())})
    image_folder(path)
    (file,) = cache.glob("*.npy")
    os.truncate(file, left)
    with pytest.raises(ValueError, match=r"images-\w+\.npy is damaged; remove it and run again"):
        image_folder(path)


def test_a_class_has_one_number_in_training_and_held_out_pictures(tmp_path):
    train = zip_of(
        tmp_path / "a.zip",
        {f"{c}/{i}.png": encoded(pixels()) for c in ("cat", "dog", "fox") for i in range(2)},
    )
    test = zip_of(tmp_path / "b.zip", {"dog/1.png": encoded(pixels()), "fox/1.png": encoded(pixels())})
    assert data.load_data(str(train), test).test_labels.tolist() == [1, 2]
    flat = zip_of(tmp_path / "c.zip", {"1.png": encoded(pixels())})
    assert data.load_data(str(train), flat).test_labels is None, "pictures without folders have no class"


@pytest.mark.parametrize(
    "names", [["cat\\1.png", "dog\\1.png"], ["a\\cat\\1.png", "a/dog/1.png"], ["cat\\1.png", "dog/1.png"]]
)
def test_a_zip_with_the_separators_of_windows_has_the_same_classes(tmp_path, names):
    path = tmp_path / "w.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*names, "__MACOSX\\dog\\._1.png", "empty\\"]:
            info = zipfile.ZipInfo()
            info.filename = name  # which ZipInfo would mend on Windows
            archive.writestr(info, encoded(pixels()) if name in names else b"")
    found = image_folder(path)
    assert (found.classes, found.labels.tolist()) == (["cat", "dog"], [0, 1])


@pytest.mark.parametrize(
    "files, said",
    [
        (["1.png", "2.png"], ""),
        (["1.png", "2.gif"], "f: of 2 pictures 1 of a kind that is not read (.gif) are left out; save them as .png"),
        (["a/1.png", "a/2.TIFF", "b/3.heic", "b/4.tiff"], "of 4 pictures 3 of a kind that is not read (.heic, .tiff) are left out"),
        (["1.png", ".2.gif", "@eaDir/3.gif", "notes.txt"], ""),
    ],
)  # fmt: skip
def test_pictures_of_kinds_that_are_not_read_are_left_out_with_a_word(tmp_path, capsys, files, said):
    path = folder_of(tmp_path / "f", {name: encoded(pixels()) for name in files})
    image_folder(path)
    err = capsys.readouterr().err
    assert said in err and bool(err) == bool(said)
    for name in files:
        if name.endswith(".png"):
            (path / name).unlink()
    with pytest.raises(
        FileNotFoundError, match="holds no picture .*" + (r"\), but \d of a kind" if said else r"\)$")
    ):
        image_folder(path)


@pytest.mark.parametrize(
    "make, words", [(os.mkfifo, "is a pipe"), (lambda p: p.symlink_to("/dev/zero"), "is a device")]
)
def test_neither_a_pipe_nor_a_device_is_read_for_ever(tmp_path, make, words):
    make(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=f"{words}, not a file; give the path of a folder or zip"):
        image_folder(tmp_path / "a.zip")


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG"])
def test_what_is_no_picture_is_named_with_its_place_and_no_address(tmp_path, content):
    path = folder_of(tmp_path / "f", {"a/1.png": encoded(pixels()), "b/2.png": content})
    with pytest.raises(
        ValueError, match=r"f/b/2\.png is no picture that can be read \(its content is of no known kind\)$"
    ):
        image_folder(path)


@pytest.mark.parametrize(
    "names, unknown",
    [
        (["emu/1.png"], "emu"),
        (["dog/1.png", "emu/1.png", "gnu/1.png"], "emu, gnu"),
        (["dog/1.png", "1.png"], "pictures outside any folder"),
    ],
)
def test_a_held_out_class_that_training_never_saw_is_refused(tmp_path, names, unknown):
    train = zip_of(tmp_path / "a.zip", {f"{c}/1.png": encoded(pixels()) for c in ("cat", "dog", "fox")})
    test = zip_of(tmp_path / "b.zip", {name: encoded(pixels()) for name in names})
    with pytest.raises(ValueError, match=rf"has classes that .*a.zip has not: {unknown}; leave those"):
        data.load_data(str(train), test)


def test_pictures_are_split_once_and_two_sets_must_agree(tmp_path):
    many = {f"{i % 2}/{i:02}.png": encoded(pixels()) for i in range(30)}
    path = zip_of(tmp_path / "mine-train.zip", many)
    one, two = data.load_data(str(path)), data.load_data(str(path))
    assert (len(one.train), len(one.test), one.name) == (27, 3, "mine")
    assert one.train.equal(two.train) and one.test_labels.equal(two.test_labels)
    whole = image_folder(path)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert torch.cat([one.test, one.train]).equal(whole.images[order]), "always these pictures in this order"
    assert torch.cat([one.test_labels, one.train_labels]).equal(whole.labels[order])
    assert is_mapped(one.train) and is_mapped(one.test), "parts of one file, not copies"
    assert (data.to_unit(one.train).min(), data.to_unit(one.train).max()) == (-1, 1)
    test = zip_of(tmp_path / "t.zip", {"1.png": encoded(pixels())})
    assert len(data.load_data(str(path), test).test) == 1 and len(data.load_data(str(path), test).train) == 30
    large = zip_of(tmp_path / "l.zip", {"1.png": encoded(pixels(9, 9))})
    with pytest.raises(ValueError, match=r"l\.zip and .*mine-train\.zip differ in size; give a size"):
        data.load_data(str(path), large)
    with pytest.raises(ValueError, match="holds only one picture; training and comparing need at least two"):
        data.load_data(str(test))


# Downloads, from a server on this machine.

BODY = bytes(range(256)) * 40
SHA = hashlib.sha256(BODY).hexdigest()


class Server:
    """``http.server`` that serves BODY, with or without ranges, and may break off after ``limit`` bytes."""

    def __init__(self) -> None:
        self.ranges, self.limit, self.asked = True, len(BODY), list[str | None]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                start = int(wanted[6:-1]) if wanted and outer.ranges else 0
                if start >= len(BODY):
                    self.send_error(416)
                    return
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(BODY) - start))
                self.end_headers()
                self.wfile.write(BODY[start : outer.limit])

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/file"
        Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_a_broken_connection_keeps_its_part_and_the_next_run_goes_on_from_there(tmp_path, server):
    path, part = tmp_path / "deep" / "file", tmp_path / "deep" / "file.part"
    server.limit = 5000
    with pytest.raises(OSError, match="the connection broke after 5000 of 10240 bytes; run again to go on"):
        download(server.url, path, SHA)
    assert part.read_bytes() == BODY[:5000] and not path.exists()
    server.limit = len(BODY)
    assert download(server.url, path, SHA).read_bytes() == BODY and not part.exists()
    assert server.asked == [None, "bytes=5000-"]
    assert download(server.url, path, SHA) == path and len(server.asked) == 2


def test_a_server_without_ranges_starts_again(tmp_path, server):
    server.ranges = False
    (tmp_path / "file.part").write_bytes(b"x" * 300)
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == BODY
    assert server.asked == ["bytes=300-"]


def test_a_part_that_is_complete_only_needs_its_name(tmp_path, server):
    """As after a kill between the last byte and the renaming."""
    (tmp_path / "file.part").write_bytes(BODY)
    assert download(server.url, tmp_path / "file", SHA).read_bytes() == BODY


@pytest.mark.parametrize("part", [b"", b"x" * 300, b"x" * len(BODY)])
def test_a_wrong_hash_removes_the_file(tmp_path, server, part):
    (tmp_path / "file.part").write_bytes(part)
    with pytest.raises(
        ValueError, match=r"SHA-256 \w{12}… differs from the recorded .*; the file was removed"
    ):
        download(server.url, tmp_path / "file", SHA if part else "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_server_is_an_os_error(tmp_path, server):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(OSError):
        download(server.url, tmp_path / "file", SHA)


DISKS = {
    errno.EACCES: "permission is denied",
    errno.EROFS: "this disk is read-only",
    errno.ENOSPC: "the disk is full",
}


@pytest.mark.parametrize("code", DISKS)
@pytest.mark.parametrize("what", ["download", "download's file", "pixels"])
def test_a_cache_that_cannot_be_written_is_named_with_the_way_to_another(
    tmp_path, monkeypatch, server, code, what, cache
):
    folder = folder_of(tmp_path / "f", {"1.png": encoded(pixels())})

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    if what == "download's file":
        monkeypatch.setattr(images.shutil, "copyfileobj", fail)
    else:
        monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(
        OSError, match=rf"cannot write .*{DISKS[code]}.*; .* by the environment variable CDEDU_CACHE"
    ) as told:
        image_folder(folder) if what == "pixels" else download(server.url, cache.parent / "file", SHA)
    assert told.value.errno == code and "\n" not in str(told.value)


# CIFAR-10


def binary_archive(path: Path, rows: int = 3) -> dict[str, np.ndarray]:
    """CIFAR-10's binary layout: one label byte, then 3,072 pixels, channel by channel."""
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    content = {name: RNG.integers(0, 256, (rows, 3073), np.uint8) for name in names}
    with tarfile.open(path, "w:gz") as tar:
        for name, table in content.items():
            table[:, 0] %= 10
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
            info.size = table.size
            tar.addfile(info, io.BytesIO(table.tobytes()))
    return content


def parquet(path: Path, rows: int = 4) -> tuple[list[np.ndarray], list[int]]:
    """The mirror's layout: a struct with the bytes of a PNG, and a label."""
    import pyarrow
    from pyarrow import parquet

    arrays = [pixels(32, 32) for _ in range(rows)]
    labels = [int(i) for i in RNG.integers(0, 10, rows)]
    rows_ = [{"bytes": encoded(a), "path": None} for a in arrays]
    parquet.write_table(pyarrow.table({"img": rows_, "label": labels}), path)
    return arrays, labels


def refuse(*_: object, **__: object) -> None:
    raise ConnectionError("no way out")


def test_the_original_archive_is_read_record_by_record(tmp_path):
    content = binary_archive(tmp_path / "c.tar.gz")
    got = images._read_binary(tmp_path / "c.tar.gz")
    train = np.concatenate([content[f"data_batch_{i}"] for i in range(1, 6)])
    for split, table in (("train", train), ("test", content["test_batch"])):
        assert got[split].labels.tolist() == table[:, 0].tolist()
        assert np.array_equal(got[split].images, table[:, 1:].reshape(-1, 3, 32, 32))
        assert got[split].classes == CIFAR10_CLASSES


def test_the_mirror_comes_first_and_its_hash_is_checked(tmp_path, monkeypatch):
    made = {split: parquet(tmp_path / f"{split}.parquet") for split in ("train", "test")}
    asked = []

    def hub(repository: str, name: str, **options: str) -> str:
        asked.append((repository, name, options))
        return str(tmp_path / f"{'train' if 'train' in name else 'test'}.parquet")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hub)
    with pytest.raises(ValueError, match=r"train\.parquet differs from its recorded SHA-256; remove it"):
        images._from_mirror("train")
    for split in made:
        digest = hashlib.sha256((tmp_path / f"{split}.parquet").read_bytes()).hexdigest()
        monkeypatch.setitem(images.PARQUET, split, digest)
    monkeypatch.setattr(images, "download", refuse)
    for _ in range(2):
        for split, got in zip(made, cifar10(), strict=True):
            arrays, labels = made[split]
            assert np.array_equal(got.images.permute(0, 2, 3, 1), np.stack(arrays))
            assert got.labels.tolist() == labels and got.classes == CIFAR10_CLASSES
    assert len(asked) == 3 and asked[0] == (
        "uoft-cs/cifar10", "plain_text/train-00000-of-00001.parquet",
        {"repo_type": "dataset", "revision": images.REVISION},
    )  # fmt: skip


def test_without_the_mirror_the_original_is_fetched_once(tmp_path, monkeypatch):
    content = binary_archive(tmp_path / "c.tar.gz")
    calls: list[tuple] = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr(images, "download", lambda *a: (calls.append(a), tmp_path / "c.tar.gz")[1])
    for _ in range(2):
        train, test = cifar10(tmp_path / "root")
        assert len(train.images) == 15 and test.labels.tolist() == content["test_batch"][:, 0].tolist()
    assert calls == [(images.ORIGINAL, tmp_path / "root" / "cifar-10-binary.tar.gz", images.ORIGINAL_SHA256)]


def test_where_both_homes_fail_one_error_says_why(monkeypatch):
    def gone(*_: object) -> None:
        raise OSError("server asleep")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr(images, "download", gone)
    with pytest.raises(
        OSError, match=r"neither from the mirror \(no way out\) nor from its home \(server asleep\)"
    ):
        cifar10()


def test_recorded_hashes_are_whole():
    hashes: list[str] = [*images.PARQUET.values(), images.ORIGINAL_SHA256]
    assert all(len(h) == 64 and int(h, 16) for h in hashes) and len(images.REVISION) == 40


def form_of(height: int, width: int) -> np.ndarray:
    """Red at the left edge, green at the right one, blue between."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 2], picture[:, : width // 4, :], picture[:, -width // 4 :, :] = 255, (255, 0, 0), (0, 255, 0)
    return picture


RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
FITS = {
    # What becomes of 8 × 16: its left edge, middle, and top at two forms.
    ("crop", (8, 8)): (BLUE, BLUE, BLUE),
    ("pad", (16, 16)): (RED, BLUE, BLACK),
    ("stretch", (16, 16)): (RED, BLUE, BLUE),
    ("crop", (4, 8)): (RED, BLUE, BLUE),
    ("crop", (16, 24)): (RED, BLUE, BLUE),
    ("pad", (24, 16)): (RED, BLUE, BLACK),
}


@pytest.mark.parametrize("fit, size", FITS)
def test_a_picture_of_another_form_is_cut_padded_or_stretched(tmp_path, fit, size):
    path = folder_of(tmp_path / "f", {"1.png": encoded(form_of(8, 16))})
    (got,) = image_folder(path, size, fit=fit).images
    height, width = size
    assert got.shape == (3, *size)
    for place, colour in zip(
        ((height // 2, 0), (height // 2, width // 2), (0, width // 2)), FITS[fit, size], strict=True
    ):
        assert (got[:, place[0], place[1]].int() - torch.tensor(colour)).abs().max() < 60, place


@pytest.mark.parametrize("shape, size", [((200, 1), (8, 8)), ((1, 200), (8, 8)), ((100, 1), (4, 9))])
def test_a_thin_picture_that_is_padded_does_not_vanish(tmp_path, shape, size):
    """Pillow leaves nothing of a line thinner than half a pixel; here it stays one pixel wide."""
    path = folder_of(tmp_path / "f", {"1.png": encoded(np.full((*shape, 3), 255, np.uint8))})
    (got,) = image_folder(path, size, fit="pad").images
    lit = (got == 255).all(0)
    long = 0 if shape[0] > 1 else 1
    assert lit.any(1 - long).sum() == size[long] and lit.sum() == size[long] and (got[:, ~lit] == 0).all()


def test_folders_in_a_zip_are_no_pictures_whatever_their_names(tmp_path):
    files = {"x.png/": b"", "x.png/1.png": encoded(pixels())}
    assert image_folder(zip_of(tmp_path / "f.zip", files)).classes == ["x.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize(
    "kind, words",
    [("circle", "there is no picture .*bad.png"), ("nowhere", "there is no picture .*bad.png"), ("pipe", "bad.png is a pipe, not a file")],
)  # fmt: skip
def test_a_name_behind_which_there_is_no_file_is_said_before_work(tmp_path, kind, words):
    path = folder_of(tmp_path / "f", {"a/good.png": encoded(pixels())})
    bad = path / "a" / "bad.png"
    if kind == "pipe":
        os.mkfifo(bad)
    else:
        bad.symlink_to(bad if kind == "circle" else tmp_path / "gone")
    for read in (image_folder, images.picture_files):
        with pytest.raises((OSError, ValueError), match=words):
            read(path)


def test_grey_pictures_are_kept_grey(tmp_path):
    """As they are, and coloured ones by their luminance; the same folder in colour is another file of the cache."""
    grey = pixels(channels=1)
    path = folder_of(tmp_path / "f", {"a/1.png": encoded(grey), "b/2.png": encoded(form_of(6, 6))})
    got = image_folder(path, channels=1)
    assert got.images.shape == (2, 1, 6, 6) and np.array_equal(got.images[0, 0], grey)
    assert got.images[1, 0, 0, 0] == round(0.299 * 255) and got.images[1, 0, 0, -1] == round(0.587 * 255)
    assert image_folder(path).images.shape == (2, 3, 6, 6)
    sets = data.load_data(str(path), channels=1, size=(4, 6), fit="pad")
    assert sets.train.shape == sets.test.shape == (1, 1, 4, 6)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"channels": 2}, "channels = 2, but pictures have 1 or 3"),
        ({"fit": "pad"}, "fit = 'pad' says how pictures become those of a size; give the size"),
        ({"size": (0, 8)}, r"size = \(0, 8\), but"),
        (
            {"size": (4,)},
            r"size = \(4,\), but it must be a whole number of pixels, from 1 to 16,384, or two of them",
        ),
        ({"size": 1.5}, "size = 1.5, but"),
        ({"size": 10**9}, "size = 1000000000, but"),
        ({"size": 8, "fit": "cropp"}, "fit = 'cropp' is not known; choose one of 'crop', 'pad', 'stretch'"),
    ],
)
def test_a_wish_that_makes_no_picture_is_refused(tmp_path, options, message):
    path = folder_of(tmp_path / "f", {"1.png": encoded(pixels())})
    with pytest.raises(ValueError, match=message):
        image_folder(path, **options)


@pytest.mark.parametrize("name", ["two_moons", "digits", "cifar10"])
@pytest.mark.parametrize("options", [{"size": 8}, {"channels": 1}, {"fit": "pad"}, {"test": "t.zip"}])
def test_options_for_pictures_are_not_dropped_where_there_are_none(name, options):
    with pytest.raises(
        ValueError, match=f"{name} comes as it is; .* can be chosen for a folder or zip of pictures only"
    ):
        data.load_data(name, **options)
