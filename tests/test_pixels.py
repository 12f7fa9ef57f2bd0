"""Data sets that need not fit into memory: one mapped file of pixels, and samples that are fetched a step ahead."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdedu.data import Dataset, images, pictures, pixels, to_unit
from cdedu.data.pixels import Ahead, is_mapped, mapped, write_pixels
from cdedu.noise import LogNormal, draw_steps
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage
from cdedu.runtime import Runtime
from cdedu.training import Batches, seed_of, train_teacher

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
SQUARES = torch.randint(0, 256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(40) % 3
RECIPE = Recipe(
    "mapped",
    "pictures",
    Network("ddpmpp", width=8, depth=1, multipliers=(1, 2), attention=(4,), classes=4),
    TeacherStage(steps=4, batch=24, label_dropout=0.3),
    StudentStage(steps=4, batch=24, points=6),
    flip=True,
    block=4,
)
TRAINED = replace(RECIPE, network=Network("unet", width=8, depth=1, multipliers=(1,), classes=4))


@pytest.fixture
def file(tmp_path) -> Path:
    """The squares in a file."""
    path = tmp_path / "squares.npy"
    write_pixels(path, len(SQUARES), lambda i: SQUARES[i].numpy(), "squares")
    return path


def runtime(rank: int = 0, world: int = 1, holds: bool = True) -> Runtime:
    made = Runtime()
    made.rank, made.world, made.holds = rank, world, lambda nbytes: holds
    return made


# What a sample gets


def block_by_block(recipe, role, data, step, part, level, guidance):
    """The same draws one block after the other, as they are defined."""
    stage = getattr(recipe, role)
    size, columns = min(recipe.block or stage.batch, stage.batch), []
    for start in range(part.start, part.stop, size):
        key = (recipe.seed, role, step, start) if start else (recipe.seed, role, step)
        g = torch.Generator().manual_seed(seed_of(*key))
        which = torch.randint(len(data.train), (size,), generator=g)
        x = to_unit(data.train[which].clone())
        if recipe.flip:
            flip = torch.rand(size, generator=g) < 0.5
            x = torch.stack([image.flip(-1) if turn else image for image, turn in zip(x, flip, strict=True)])
        block = {"x0": x, "levels": level(size, g), "noise": torch.randn(x.shape, generator=g)}
        if data.train_labels is not None and recipe.network.classes:
            block["labels"] = data.train_labels[which]
            if role == "teacher" and recipe.teacher.label_dropout:
                gone = torch.rand(size, generator=g) < recipe.teacher.label_dropout
                block["labels"] = block["labels"].masked_fill(gone, recipe.network.classes - 1)
        if guidance:
            block["guidance"] = guidance[0] + (guidance[1] - guidance[0]) * torch.rand(size, generator=g)
        columns.append(block)
    return {name: torch.cat([block[name] for block in columns]) for name in columns[0]}


STEPS = partial(draw_steps, torch.tensor([0.1, 0.5, 0.4]))
CASES = {
    "labels, dropped at times": (RECIPE, "teacher", LogNormal().sample, None),
    "guidance": (RECIPE, "student", STEPS, (1.0, 4.0)),
    "one block": (replace(RECIPE, block=0), "teacher", LogNormal().sample, (0.5, 2.0)),
    "blocks of three": (replace(RECIPE, block=3), "student", LogNormal(-1.1, 2.0).sample, None),
    "neither labels nor mirrors": (
        replace(
            RECIPE, flip=False, network=replace(RECIPE.network, classes=0), teacher=TeacherStage(batch=24)
        ),
        "teacher",
        STEPS,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("where", ["resident", "mapped", "in memory, not on the device"])
def test_every_way_to_the_samples_gives_the_numbers_of_a_block_after_the_other(file, case, where):
    recipe, role, level, guidance = CASES[case]
    data = Dataset("squares", mapped(file) if where == "mapped" else SQUARES, SQUARES[:4], LABELS)
    for world, micro_batch in ((1, None), (1, 4), (2, 4)) if recipe.block else ((1, None),):
        for rank in range(world):
            if 24 // world % (recipe.block or 24):
                continue
            process = runtime(rank, world, holds=where != "in memory, not on the device")
            batches = Batches(recipe, role, 24, data, process, guidance)
            assert (batches.ahead is None) == (where == "resident")
            for step in (0, 1, 2, 2, 0, 3):  # also again, and back
                for part in batches.parts(micro_batch):
                    x0, levels, noise, cond = batches.draw(step, part, level)
                    got = {"x0": x0, "levels": levels, "noise": noise, **cond}
                    wanted = block_by_block(recipe, role, data, step, part, level, guidance)
                    assert got.keys() == wanted.keys()
                    assert all(got[name].equal(wanted[name]) for name in got), (step, part)


def test_each_process_fetches_its_own_samples_only(file):
    data = Dataset("squares", mapped(file), SQUARES[:4], LABELS)
    shares = [Batches(RECIPE, "student", 24, data, runtime(rank, 2))._gather(1) for rank in range(2)]
    whole = Batches(RECIPE, "student", 24, data, runtime())._gather(1)
    assert [len(share) for share in shares] == [12, 12] and torch.cat(shares).equal(whole)


def last(states):
    return deque(states, maxlen=1).pop()


def test_a_run_on_mapped_data_also_when_it_is_resumed_gives_the_weights_of_one_on_data_in_memory(file):
    data = Dataset("squares", SQUARES, SQUARES[:4], LABELS)
    there = replace(data, train=mapped(file))
    wanted = last(train_teacher(TRAINED, data, runtime=Runtime(micro_batch=8))).tensors()
    half = last(islice(train_teacher(TRAINED, there, runtime=Runtime(micro_batch=8)), 2))
    saved = {name: t.clone() for name, t in half.tensors().items()}
    resumed = train_teacher(TRAINED, there, resume=(saved, half.step), runtime=Runtime(micro_batch=8))
    got = last(resumed).tensors()
    assert half.step == 2 and all(got[name].equal(wanted[name]) for name in wanted)


def test_a_gpu_holds_data_up_to_a_quarter_of_its_free_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 80_000))
    on_gpu = Runtime()
    on_gpu.device = torch.device("cuda")
    assert on_gpu.holds(1000) and not on_gpu.holds(1001) and Runtime().holds(10**15)


@cuda
def test_on_a_gpu_fetched_and_resident_samples_are_the_same(file):
    data = Dataset("squares", mapped(file), SQUARES[:4], LABELS)
    both = []
    for holds in (True, False):
        there = Runtime("cuda")
        there.holds = lambda nbytes, holds=holds: holds
        both.append(Batches(RECIPE, "teacher", 24, data, there))
    assert both[0].train.is_cuda and both[1].ahead is not None
    for step in range(4):
        for part in both[0].parts(8):
            (*one, a), (*two, b) = (batches.draw(step, part, LogNormal().sample) for batches in both)
            assert all(s.equal(t) for s, t in zip(one, two, strict=True)) and a["labels"].equal(b["labels"])
    assert both[1]._gather(0).is_pinned()


# A step ahead


def test_a_step_is_fetched_once_while_the_one_before_is_computed_and_none_after_the_last():
    asked, ahead = [], Ahead()

    def make(step):
        asked.append((step, threading.current_thread() is threading.main_thread()))
        return torch.tensor(step)

    for step in (0, 0, 1, 2, 2):
        assert int(ahead(make, step, last=2)) == step
    assert asked == [(0, False), (1, False), (2, False)]
    entered = threading.Event()
    ahead(lambda step: entered.set() if step == 6 else None, 5, last=9)
    assert entered.wait(20), "step 6 is on its way though nobody has asked for it"


def test_an_error_of_the_thread_is_raised_at_its_step():
    ahead = Ahead()

    def make(step):
        if step == 2:
            raise OSError("the disk is gone")
        return torch.tensor(step)

    assert [int(ahead(make, step, 5)) for step in (0, 1)] == [0, 1]
    with pytest.raises(OSError, match="the disk is gone"):
        ahead(make, 2, 5)


def test_the_error_of_a_fetch_ends_a_run_with_its_message(file, monkeypatch):
    gather = Batches._gather

    def failing(self, step):
        if step == 2:
            raise OSError("the disk is gone")
        return gather(self, step)

    monkeypatch.setattr(Batches, "_gather", failing)
    done = 0
    with pytest.raises(OSError, match="the disk is gone"):
        for _ in train_teacher(TRAINED, Dataset("squares", mapped(file), SQUARES[:4], LABELS)):
            done += 1
    assert done == 2


def test_the_thread_ends_with_the_run(file):
    def running():
        return [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]

    gc.collect()
    before = set(running())
    states = train_teacher(TRAINED, Dataset("squares", mapped(file), SQUARES[:4], LABELS))
    next(states)
    (thread,) = set(running()) - before
    states.close()
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.weekly
def test_a_program_that_ends_while_a_step_is_fetched_ends_at_once():
    code = (
        "import time\nfrom cdedu.data.pixels import Ahead\nahead = Ahead()\nmade = lambda s: time.sleep(s)\n"
        "ahead(made, 0, 1)\nprint('end', flush=True)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == "end\n" and time.monotonic() - start < 100, done.stderr


# The file


def test_the_file_is_a_numpy_array_and_is_mapped_without_a_warning(file):
    assert np.array_equal(np.load(file), SQUARES.numpy())
    x = mapped(file)
    assert x.equal(SQUARES) and is_mapped(x) and is_mapped(x[4:][::2]) and is_mapped(x.flatten())
    assert not is_mapped(x.clone()) and not is_mapped(x[torch.arange(3)]) and not is_mapped(SQUARES)
    address = x.untyped_storage().data_ptr()
    assert address in pixels._MAPPED
    del x
    gc.collect()
    assert address not in pixels._MAPPED
    assert sorted(path.suffix for path in file.parent.iterdir()) in ([".npy"], [".lock", ".npy"])


def test_a_file_may_be_larger_than_memory(tmp_path):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    n = 4 * total // (3 * 256 * 256)
    path = tmp_path / "large.npy"
    with open(path, "wb") as out:  # of holes
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, 3, 256, 256)}
        np.lib.format.write_array_header_1_0(out, header)
        try:
            out.truncate(out.tell() + n * 3 * 256 * 256)
        except OSError:
            pytest.skip("the file system has no files of this size")
    x = mapped(path)
    assert x.nbytes > 3 * total and int(x[[0, n // 2, n - 1]].sum()) == 0


class Stop(BaseException):
    """As Ctrl-C."""


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", 5 * SQUARES[0].nbytes)


def recorded(calls: list[int], stop: int | None = None):
    def decode(i: int) -> np.ndarray:
        if i == stop:
            raise Stop
        calls.append(i)
        return SQUARES[i].numpy()

    return decode


def test_an_interrupted_conversion_goes_on_where_it_stopped(tmp_path, small_chunks):
    path, calls = tmp_path / "x.npy", list[int]()
    for stop, done in ((12, 10), (27, 25), (26, 25)):
        with pytest.raises(Stop):
            write_pixels(path, 40, recorded([], stop), "x")
        assert json.loads((tmp_path / "x.npy.part.json").read_text()) == {"done": done} and not path.exists()
    write_pixels(path, 40, recorded(calls), "x")
    assert mapped(path).equal(SQUARES)
    assert sorted(calls) == [0, *range(25, 40)], "the first one tells the size"
    assert not list(tmp_path.glob("*.part*"))


@pytest.mark.parametrize("left", ["count only", "part only", "short part", "no number", "another shape"])
def test_what_cannot_be_gone_on_with_is_begun_anew(tmp_path, small_chunks, left):
    path, part, count = (tmp_path / f"x.npy{end}" for end in ("", ".part", ".part.json"))
    with pytest.raises(Stop):
        write_pixels(path, 39 if left == "another shape" else 40, recorded([], 12), "x")
    if left == "count only":
        part.unlink()
    elif left == "part only":
        count.unlink()
    elif left == "short part":
        os.truncate(part, part.stat().st_size - 1)
    elif left == "no number":
        count.write_text("")
    calls: list[int] = []
    with pytest.raises(Stop):  # between the new part and its first pictures
        write_pixels(path, 40, recorded([], 2), "x")
    assert not count.exists()
    write_pixels(path, 40, recorded(calls), "x")
    assert mapped(path).equal(SQUARES) and sorted(calls) == [0, *range(40)]


def test_of_two_at_once_one_makes_the_file_and_the_other_takes_it(tmp_path, small_chunks):
    path, calls = tmp_path / "x.npy", list[int]()

    def slow(i: int) -> np.ndarray:
        time.sleep(0.005)
        return recorded(calls)(i)

    both = [threading.Thread(target=write_pixels, args=(path, 40, slow, "x")) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert sorted(calls) == [0, *range(40)] and mapped(path).equal(SQUARES)


@pytest.mark.slow
def test_when_a_process_is_killed_the_one_that_waits_for_it_goes_on_from_there(
    tmp_path, small_chunks, capsys
):
    path, count = tmp_path / "x.npy", tmp_path / "x.npy.part.json"
    np.save(tmp_path / "squares.npy", SQUARES.numpy())
    code = (
        "import sys, time\nimport numpy as np\nfrom pathlib import Path\nfrom cdedu.data import pixels\n"
        "x = np.load(sys.argv[1])\npixels.CHUNK = 5 * x[0].nbytes\n"
        "def decode(i):\n    time.sleep(3600 if i >= 10 else 0)\n    return x[i]\n"
        "pixels.write_pixels(Path(sys.argv[2]), 40, decode, 'x')\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "squares.npy"), str(path)])
    try:
        end = time.monotonic() + 120
        while not (count.exists() and json.loads(count.read_text())["done"] == 10):
            assert time.monotonic() < end and other.poll() is None
            time.sleep(0.05)
        calls: list[int] = []
        waiting = threading.Thread(target=write_pixels, args=(path, 40, recorded(calls), "x"))
        waiting.start()
        waiting.join(2.5)
        assert waiting.is_alive() and not calls
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    waiting.join(60)
    assert mapped(path).equal(SQUARES) and sorted(calls) == [0, *range(10, 40)]
    assert "another process is decoding x; waiting for it" in capsys.readouterr().err


def test_too_little_space_is_said_before_the_work(tmp_path, monkeypatch):
    usage = pixels.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pixels.shutil, "disk_usage", lambda path: usage._replace(free=100))
    calls: list[int] = []
    with pytest.raises(
        OSError, match=r"pixels of x take another 0\.0 GB, but .* has 0\.0 GB left; remove images-\*"
    ):
        write_pixels(tmp_path / "x.npy", 40, recorded(calls), "x")
    assert calls == [0] and not (tmp_path / "x.npy").exists()


def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path, monkeypatch, small_chunks):
    path, sync, left = tmp_path / "x.npy", os.fsync, [5]

    def full(file: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OSError, match=r"x\.npy\.part \(No space left on device\); 10 of 40 pictures are kept, run again"
    ):
        write_pixels(path, 40, recorded([]), "x")
    calls: list[int] = []
    write_pixels(path, 40, recorded(calls), "x")
    assert sorted(calls) == [0, *range(10, 40)] and mapped(path).equal(SQUARES)


# Memory


def own_memory() -> float:
    """Megabytes of this process that are not pages of files."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")
    )
    return int(line.split()[1]) / 1024


linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")


def noise_file(path: Path, n: int, size: int) -> torch.Tensor:
    """A file of n pictures of random bytes, the same thousand again and again."""
    some = np.random.default_rng(0).integers(0, 256, (1000, 3, size, size), np.uint8)
    with open(path, "wb") as out:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)}
        np.lib.format.write_array_header_1_0(out, header)
        for start in range(0, n, 1000):
            out.write(some[: n - start].data)
    return mapped(path)


def walk(x: torch.Tensor, steps: int, batch: int, block: int) -> list[float]:
    """Memory along so many steps of batches."""
    stages = {"teacher": TeacherStage(), "student": StudentStage(steps=steps, batch=batch)}
    recipe = replace(RECIPE, block=block, network=Network(), **stages)
    batches, used = Batches(recipe, "student", batch, Dataset("large", x, x[:4]), Runtime()), []
    for step in range(steps):
        for part in batches.parts(None):
            batches.draw(step, part, LogNormal().sample)
        if step % max(1, steps // 50) == 0:
            used.append(own_memory())
    return used


@linux
def test_decoding_and_drawing_take_the_memory_of_a_chunk_and_of_two_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", 1 << 20)
    some = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    write_pixels(tmp_path / "warm.npy", 200, lambda i: some, "warm")
    walk(mapped(tmp_path / "warm.npy"), 20, 32, 16)
    before = own_memory()
    write_pixels(tmp_path / "x.npy", 8000, lambda i: some, "x")  # 98 MB
    decoded = own_memory() - before
    used = walk(mapped(tmp_path / "x.npy"), 200, 32, 16)
    assert decoded < 25 and max(used) - before < 25
    assert torch.bincount(mapped(tmp_path / "x.npy")[:, 0, 0, 0].long()).max() == 8000


@linux
@pytest.mark.weekly
def test_memory_stays_flat_over_ten_thousand_steps(tmp_path):
    """2 GB of 32 × 32 pictures: 650,000."""
    x = noise_file(tmp_path / "x.npy", 650_000, 32)
    used = walk(x, 10_000, 64, 16)
    print(f"RssAnon: {used[1]:.0f} MB at first, {max(used):.0f} MB at most, {used[-1]:.0f} MB at the end")
    assert max(used[1:]) - used[1] < 20


@linux
@pytest.mark.weekly
def test_a_folder_of_the_size_of_imagenet64_pictures_is_decoded_in_little_memory(tmp_path, monkeypatch):
    """4,000 pictures of 64 × 64, 49 MB, and 256 of 256 × 256, 50 MB, in chunks of 4 MB."""
    monkeypatch.setattr(images, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(pixels, "CHUNK", 1 << 22)
    rng = np.random.default_rng(0)
    for n, size in ((4000, 64), (256, 256)):
        folder = tmp_path / str(size)
        for i in range(n):
            path = folder / f"n{i % 10:08}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(path, compress_level=1)
        before = own_memory()
        data = pictures(folder)
        print(f"{size}: {own_memory() - before:.0f} MB more after decoding {data.train.nbytes / 1e6:.0f} MB")
        assert own_memory() - before < 40 and data.train.shape == (n - n // 10, 3, size, size)
        used = walk(data.train, 20, 32, 16)
        print(f"{size}: {max(used) - before:.0f} MB more in 20 steps of 32")
        assert max(used) - before < 40 + 10 * 32 * 3 * size * size * 4 / 2**20


@linux
@pytest.mark.weekly
def test_pictures_of_lsun256_are_trained_on_from_a_file_larger_than_what_is_in_memory(tmp_path):
    """A small network; 1.6 GB of 256 × 256 pictures: 8,000."""
    x = noise_file(tmp_path / "x.npy", 8000, 256)
    recipe = replace(
        RECIPE,
        network=Network("unet", width=8, depth=1, multipliers=(1, 1)),
        teacher=TeacherStage(steps=12, batch=16),
    )
    used = [
        own_memory() for _ in train_teacher(recipe, Dataset("lsun", x, x[:4]), runtime=Runtime(micro_batch=4))
    ]
    print(
        f"RssAnon along {len(used)} steps: {used[0]:.0f} to {max(used):.0f} MB; the file has {x.nbytes / 2**20:.0f} MB"
    )
    assert max(used[2:]) - used[2] < 200
