"""Many samples on disk: the same ones in any batch, in any format, and after an interruption."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdedu import checkpoints, samples
from cdedu.data import to_uint8
from cdedu.files import locked
from cdedu.networks import MLP
from cdedu.noise import normal
from cdedu.recipes import Network, recipes
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher

RECIPE = replace(recipes["labelled-digits"], network=Network("unet", 8, 1, (1, 1), classes=4))
SHAPE = (1, 8, 8)


@pytest.fixture
def student(tmp_path):
    """A file of one with labels, three that mean something and one that means none."""
    torch.manual_seed(0)
    network = RECIPE.network.build(SHAPE)
    torch.nn.init.normal_(network.net.conv_out.weight, std=0.3)
    path = tmp_path / "s.safetensors"
    checkpoints.save(path, ConsistencyModel(network, noise_scale=250.0), RECIPE, SHAPE, labels=3)
    return path


def test_a_sample_is_the_same_whatever_is_drawn_beside_it():
    torch.manual_seed(0)
    model = ConsistencyModel(MLP(2, 8, 1, classes=3))
    labels = torch.tensor([2, 0, 1])
    many = samples.draw(model, recipes["toy"], (2,), 3, range(10), seed=5, labels=labels)
    for numbers in (range(4), range(4, 10), range(7, 8)):
        some = samples.draw(model, recipes["toy"], (2,), 3, numbers, seed=5, labels=labels)
        assert torch.allclose(some, many[numbers.start : numbers.stop], atol=1e-6)
    assert not torch.allclose(
        samples.draw(model, recipes["toy"], (2,), 3, range(10), seed=6, labels=labels), many
    )
    teacher = Teacher(MLP(2, 8, 1))
    few, more = (samples.draw(teacher, recipes["toy"], (2,), 4, range(n)) for n in (3, 5))
    assert torch.allclose(few, more[:3], atol=1e-6)


def test_each_sample_has_a_generator_of_its_own():
    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (3, 4)]

    both = normal((2, 5), generators())
    assert both[1].equal(torch.randn(5, generator=torch.Generator().manual_seed(4)))
    with pytest.raises(ValueError, match="2 generators for 3 samples"):
        normal((3, 5), generators())


def test_the_file_is_as_openais_evaluator_reads_it_and_the_pictures_are_the_same(cdedu, student):
    """Its reader takes ``arr_0``, whole numbers from 0 to 255 with the channels last; labels are ``arr_1``."""
    words = ["sample", student, "--number", 7, "--batch", 3, "--device", "cpu", "--steps", 2, "--format"]
    assert cdedu(*words, "npz", "--out", "a.npz")[0] == cdedu(*words, "png", "--out", "a")[0] == 0
    with np.load("a.npz", allow_pickle=False) as found:
        assert found.files == ["arr_0", "arr_1"]
        arr, labels = found["arr_0"], found["arr_1"]
    assert arr.dtype == np.uint8 and arr.shape == (7, 8, 8, 1) and labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    model = checkpoints.load(student)
    x = samples.draw(model, RECIPE, SHAPE, 2, range(7), labels=torch.arange(3))
    assert np.abs(arr[..., 0].astype(int) - to_uint8(x)[:, 0].numpy()).max() <= 1 and arr.std() > 20
    names = [f"{i:06}.png" for i in range(7)]
    assert sorted(p.name for p in Path("a").iterdir()) == [*names, "samples.json"]
    assert np.array_equal(np.stack([np.asarray(Image.open(f"a/{name}")) for name in names]), arr[..., 0])
    assert not list(Path().glob("*.part*"))


def test_points_are_kept_as_numbers_and_one_class_alone_can_be_asked_for(cdedu, student):
    assert (
        cdedu("sample", "toy", "--number", 5, "--format", "npz", "--out", "p.npz", "--device", "cpu")[0] == 0
    )
    with np.load("p.npz") as found:
        assert found.files == ["arr_0"] and found["arr_0"].dtype == np.float32
        x = samples.draw(checkpoints.load("toy-student"), recipes["toy"], (2,), 1, range(5))
        assert np.allclose(found["arr_0"], x)
    words = ["sample", student, "--number", 4, "--device", "cpu", "--format", "npz", "--label", 1]
    assert cdedu(*words, "--out", "one.npz")[0] == 0
    assert np.load("one.npz")["arr_1"].tolist() == [1, 1, 1, 1]


def interrupt(monkeypatch, calls: int) -> None:
    """Ctrl-C while batch number ``calls`` is drawn."""
    draw, made = samples.draw, []

    def interrupted(*args, **kwargs):
        made.append(1)
        if len(made) == calls:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(samples, "draw", interrupted)


@pytest.mark.parametrize("kind, out", [("png", "parts"), ("npz", "parts.npz")])
def test_an_interrupted_command_goes_on_to_the_same_bytes(cdedu, student, monkeypatch, kind, out):
    words = ["sample", student, "--number", 8, "--batch", 3, "--device", "cpu", "--format", kind, "--out"]
    assert cdedu(*words, out.replace("parts", "whole"))[0] == 0
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        assert cdedu(*words, out)[0] == 130
    if kind == "png":  # as a power cut could leave it, and a kill
        Path(out, "000004.png").write_bytes(Path(out, "000004.png").read_bytes()[:-5])
        Path(out, ".000006.png.tmp").write_bytes(b"half")
    else:
        with open(out + ".part", "ab") as file:
            file.write(b"half a picture")
    asked = []
    monkeypatch.setattr(samples, "draw", lambda *a, f=samples.draw, **k: (asked.append(a[4]), f(*a, **k))[1])
    code, said, err = cdedu(*words, out)
    assert code == 0 and f"{4 if kind == 'png' else 6} of them from before" in said, err
    assert asked == [range(3, 6), range(6, 8)] if kind == "png" else [range(6, 8)]
    if kind == "npz":
        for name in ("arr_0", "arr_1"):
            assert np.array_equal(np.load(out)[name], np.load("whole.npz")[name])
        assert [p.name for p in Path().glob("parts*")] == ["parts.npz"]
        return
    for path in Path("whole").iterdir():
        assert Path(out, path.name).read_bytes() == path.read_bytes()
    asked.clear()
    code, said, _ = cdedu(*words, out)
    assert code == 0 and "8 of them from before" in said and not asked


OTHERS = {
    "another seed": (["--seed", 1], "a/samples.json is of samples with seed = 0, now it is 1; choose another --out"),
    "more steps": (["--steps", 2], "with steps = 1, now it is 2"),
    "one class": (["--label", 1], "with labels = [0, 1, 2], now it is [1]"),
    "other weights": (["--weights"], "with sha256 = "),
    "a stranger": (["notes.txt"], "a holds notes.txt, which this command does not write; choose another --out"),
    "pictures of somebody else": (["samples.json"], "a holds 000000.png, which this command does not write"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_a_folder_of_anything_else_is_refused_and_left_alone(cdedu, student, case):
    more, message = OTHERS[case]
    words = ["sample", student, "--number", 2, "--device", "cpu", "--format", "png", "--out", "a"]
    assert cdedu(*words)[0] == 0
    if case == "other weights":
        model = checkpoints.load(student)
        model.network.net.conv_out.bias.data += 1
        checkpoints.save(student, model, RECIPE, SHAPE, labels=3)
    elif case == "a stranger":
        Path("a/notes.txt").write_text("mine")
    elif case == "pictures of somebody else":
        Path("a/samples.json").unlink()
    before = {p: p.read_bytes() for p in Path("a").iterdir()}
    more = more if more[0] in ("--seed", "--steps", "--label") else []
    code, out, err = cdedu(*words, "--number", 4, *more)
    assert code == 2 and message in err and len(err.splitlines()) == 1, err
    assert {p: p.read_bytes() for p in Path("a").iterdir()} == before


@pytest.mark.parametrize("kind, out", [("npz", "a.npz"), ("png", "a"), ("png", "new/folder")])
def test_two_processes_never_write_into_the_same_samples(cdedu, student, kind, out):
    words = ["sample", student, "--number", 2, "--device", "cpu", "--format", kind, "--out", out]
    Path(out).parent.mkdir(exist_ok=True)
    with locked(Path(out).with_name(f".{Path(out).name}.lock"), ""):  # as another process would
        code, _, err = cdedu(*words)
    assert (
        code == 2 and f"another process is writing {out}; wait for its end" in err and not Path(out).exists()
    )
    assert cdedu(*words)[0] == 0


def test_a_folder_of_more_pictures_than_asked_for_is_refused(cdedu, student):
    """Whoever reads the folder would count them all."""
    words = ["sample", student, "--device", "cpu", "--format", "png", "--out", "a", "--number"]
    assert cdedu(*words, 3)[0] == 0
    code, _, err = cdedu(*words, 2)
    assert code == 2 and "a holds 000002.png, which this command does not write; choose another --out" in err
    assert len(list(Path("a").glob("*.png"))) == 3


def test_more_samples_of_the_same_command_join_those_that_are_there(cdedu, student):
    words = ["sample", student, "--batch", 4, "--device", "cpu", "--format", "png", "--out", "a", "--number"]
    assert cdedu(*words, 3)[0] == 0
    first = Path("a/000001.png").read_bytes()
    code, said, _ = cdedu(*words, 6)
    assert code == 0 and "3 of them from before" in said and len(list(Path("a").glob("*.png"))) == 6
    assert Path("a/000001.png").read_bytes() == first
    code, _, err = cdedu(*words[:-4], "npz", "--out", "a.npz")
    code, _, err = cdedu(*words[:-4], "npz", "--out", "a.npz")
    assert code == 2 and "a.npz is there already; choose another --out, or remove it" in err


def test_a_file_half_drawn_by_another_command_is_refused(cdedu, student, monkeypatch):
    words = [
        "sample",
        student,
        "--number",
        4,
        "--batch",
        2,
        "--device",
        "cpu",
        "--format",
        "npz",
        "--out",
        "a.npz",
    ]
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        assert cdedu(*words)[0] == 130
    kept = Path("a.npz.part").read_bytes()
    code, _, err = cdedu(*words, "--seed", 3)
    assert code == 2 and "a.npz.part.json is of samples with seed = 0, now it is 3" in err
    assert Path("a.npz.part").read_bytes() == kept and len(kept) == 2 * 64
    assert json.loads(Path("a.npz.part.json").read_text())["seed"] == 0


def test_classes_that_take_turns_have_columns_of_their_own(cdedu, student, monkeypatch):
    """With their names above, and as many pictures of each; one class alone fills a sheet like samples without labels."""
    shown = []
    monkeypatch.setattr("cdedu.plotting.save_samples", lambda *args: shown.append(args))
    for more in ([], ["--label", 1], ["--number", 64]):
        assert cdedu("sample", student, "--device", "cpu", "--out", "a.png", *more)[0] == 0
    assert [(len(x), [*names]) for _, x, _, names in shown] == [
        (63, ["0", "1", "2"]), (64, []), (64, ["0", "1", "2"])
    ]  # fmt: skip


def test_a_sheet_shows_the_first_and_says_so(cdedu, student, monkeypatch):
    shown = []
    monkeypatch.setattr("cdedu.plotting.save_samples", lambda path, x, *title: shown.append(x))
    words = ["sample", student, "--device", "cpu", "--out", "a.png", "--number"]
    code, out, _ = cdedu(*words, 10**9)
    assert code == 0 and "256 samples of" in out and "(of 1,000,000,000; --format png or npz for all)" in out
    assert cdedu(*words, 5)[0] == 0
    assert len(shown[0]) == 256 and torch.allclose(shown[0][:5], shown[1], atol=1e-5)
    assert cdedu("sample", "toy", "--device", "cpu", "--out", "a.png", "--number", 3000)[0] == 0
    assert len(shown[2]) == 2000
