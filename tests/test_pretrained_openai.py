"""openai's files of consistency models, against a UNet that is written anew in openai_layout.py and agrees with openai's own code."""

import os
import pickle
from dataclasses import replace

import pytest
import torch
from openai_layout import GOLDEN, OpenaiUNet, answer, combinations, filled, write

from cdedu import checkpoints
from cdedu.data import Dataset
from cdedu.fitting import is_student, teacher_and_student
from cdedu.pretrained import export_pipeline, load_diffusers, load_teacher
from cdedu.recipes import get_recipe
from cdedu.samplers import sample_consistency
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill


def noise(n: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net():
    return filled(OpenaiUNet(classes=5))


@pytest.fixture(scope="module", params=["edm_toy16_ema", "cd_toy16_l2"])
def file(request, net, tmp_path_factory):
    return write(tmp_path_factory.mktemp("openai") / f"{request.param}.pt", net)


def theirs(net, x: torch.Tensor, sigma: float, student: bool, labels=None) -> torch.Tensor:
    """KarrasDenoiser.denoise of openai, with σ_d = .5 and its σ_min = .002 where there is a boundary."""
    gap = sigma - 0.002 * student
    time = torch.full((len(x),), 1000 * 0.25 * float(torch.tensor(sigma + 1e-44, dtype=torch.float64).log()))
    out = net(x / (sigma**2 + 0.25) ** 0.5, time.double(), labels)
    return out * gap * 0.5 / (sigma**2 + 0.25) ** 0.5 + x * 0.25 / (gap**2 + 0.25)


@pytest.mark.parametrize("scale_shift, classes", combinations())
def test_the_network_to_compare_with_is_openais(scale_shift, classes):
    net = filled(OpenaiUNet(classes=classes, scale_shift=scale_shift)).double()
    # Parts of it are in fp32, whose last digits depend on the processor.
    assert answer(net, classes).tolist() == pytest.approx(GOLDEN[scale_shift, classes], abs=1e-7)


@pytest.mark.parametrize("kind, flat", [("edm", False), ("cd", True), ("ct", False)])
@pytest.mark.parametrize("scale_shift, classes", combinations())
@torch.no_grad()
def test_every_file_answers_as_openais_code_does(tmp_path, scale_shift, classes, kind, flat):
    options = {"multipliers": (1, 2), "layers": 2, "attention": (1,), "scale_shift": scale_shift}
    net = filled(OpenaiUNet(classes=classes, **options))
    model = load_teacher(write(tmp_path / f"{kind}_toy16_lpips.pt", net, flat))
    student = kind != "edm"
    assert type(model) is (ConsistencyModel if student else Teacher) and not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32} and is_student(model) == student
    assert all(p.requires_grad and p.is_contiguous() for p in model.parameters())
    assert (model.sigma_data, model.noise_scale, model.sigma_max) == (0.5, 250.0, 80.0)
    assert (getattr(model, "clip", None), model.sigma_min) == ((1.0, 0.002) if student else (None, 0.0))
    assert (model.header.shape, model.header.classes, model.header.labels) == ((3, 16, 16), classes, classes)
    labels = torch.tensor([4, 0]) if classes else None
    cond = {"labels": labels} if classes else {}
    model, net, x = model.double(), net.double(), noise().double()
    for sigma in (0.002, 0.5, 80.0):
        want = theirs(net, sigma * x, sigma, student, labels)
        assert (model(sigma * x, sigma, **cond) - want).abs().max() <= 1e-10


@torch.no_grad()
def test_a_student_samples_as_openai_does(tmp_path):
    """onestep and multistep of cm/karras_diffusion.py, with clip_denoised as image_sample.py has it."""
    net = filled(OpenaiUNet(classes=5))
    net.out[2].weight *= 4  # so that some of it is clipped
    student = load_teacher(write(tmp_path / "cd_toy16_l2.pt", net)).double()
    net, x, labels = net.double(), 80 * noise().double(), torch.tensor([1, 2])
    one = theirs(net, x, 80.0, True, labels).clamp(-1, 1)
    assert (one.abs() == 1).any() and (one.abs() < 1).any()
    assert (sample_consistency(student, x, (80.0,), labels=labels) - one).abs().max() <= 1e-10
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    z = torch.randn(x.shape, generator=generators[0]).double()
    two = theirs(net, one + z * (2.0**2 - 0.002**2) ** 0.5, 2.0, True, labels).clamp(-1, 1)
    ours = sample_consistency(student, x, (80.0, 2.0), generators[1], labels=labels)
    assert (ours - two).abs().max() <= 1e-10


def test_teacher_and_student_are_saved_and_come_back(tmp_path, file):
    model, path = load_teacher(file), tmp_path / "m.safetensors"
    checkpoints.save(path, model, model.header.recipe, model.header.shape, source=file.name)
    back, x, labels = load_teacher(path), noise(), torch.tensor([1, 4])
    assert type(back) is type(model) and back(x, 2.0, labels=labels).equal(model(x, 2.0, labels=labels))
    for name in ("sigma_data", "sigma_min", "sigma_max", "noise_scale", "clip"):
        assert getattr(back, name, None) == getattr(model, name, None), name
    assert (back.header.shape, back.header.classes, back.header.labels) == ((3, 16, 16), 5, 5)
    assert back.header.recipe == model.header.recipe and back.header.facts["source"] == file.name


def test_a_teacher_is_distilled_and_its_student_exported(tmp_path, net):
    """Its network is diffusers', told 250 ln σ: no other of the teachers from files has a student that a pipeline can hold."""
    file = write(tmp_path / "edm_toy16_ema.pt", net)
    model = load_teacher(file)
    checkpoints.save(
        saved := tmp_path / "teacher.safetensors", model, model.header.recipe, model.header.shape
    )
    pictures, labels = noise(4).clamp(-1, 1), torch.arange(4)
    data = Dataset("noise", pictures, pictures, labels, labels)
    usual = get_recipe("imagenet64")
    usual = replace(usual, student=replace(usual.student, steps=1, batch=2, points=3, distance="l2"))
    for source in (file, saved):
        recipe, teacher, student = teacher_and_student(str(source), usual, data)
        assert student is None and recipe.network.kind == "foreign"
        assert (recipe.noise_scale, recipe.sigma_data, recipe.network.classes) == (250.0, 0.5, 5)
    *_, state = distill(recipe, teacher, data)
    path = tmp_path / "student.safetensors"
    checkpoints.save(path, state.result, recipe, (3, 16, 16))
    student, x = checkpoints.load(path), noise()
    folder = export_pipeline(student, tmp_path / "pipeline")
    again = load_diffusers(folder)
    assert again(x, 80.0, labels=labels[:2]).equal(student(x, 80.0, labels=labels[:2]))
    state_file = tmp_path / "state.safetensors"
    checkpoints.save_state(state_file, state, shape=[3, 16, 16])
    assert checkpoints.load(state_file)(x, 80.0, labels=labels[:2]).equal(student(x, 80.0, labels=labels[:2]))


@pytest.mark.parametrize(
    "name",
    [
        "ema_0.9999_600000.pt",
        "target_model600000.pt",
        "cd_imagenet.pt",
        "pd_toy16.pt",
        "edm_16.pt",
        "xedm_toy16.pt",
    ],
)
def test_a_name_that_says_too_little_is_refused_with_one_that_does(tmp_path, net, name):
    path = write(tmp_path / name, net)
    with pytest.raises(ValueError, match=f"{name}: a .pt file .* says neither .* rename it like that"):
        load_teacher(path)


def scaled(name: str, times: float, *shape: int):
    def change(state):
        state[name] = torch.full(shape or state[name].shape, times)

    return change


def renamed(old: str, new: str):
    def change(state):
        for name in [name for name in state if name.startswith(old)]:
            state[new + name.removeprefix(old)] = state.pop(name)

    return change


def flattened(state):
    for name in list(state):
        if name.endswith(("qkv.weight", "proj_out.weight")):
            state[name] = state[name][..., 0]


CHANGES = {
    "resblock_updown = False": renamed("input_blocks.2.0.in_layers.2", "input_blocks.2.0.op"),
    "attention is guided-diffusion's": flattened,
    "tensor 'middle_block.2.in_layers.0.bias' is missing": lambda s: s.pop("middle_block.2.in_layers.0.bias"),
    "tensor 'input_blocks.3.0.skip_connection.bias' is missing": lambda s: s.pop("input_blocks.3.0.skip_connection.bias"),
    "tensor 'encoder.weight' has no place": scaled("encoder.weight", 1.0, 2),
    r"tensor 'out.2.bias' has shape \(4,\), its network wants \(3,\)": scaled("out.2.bias", 1.0, 4),
    "'input_blocks.3.1.qkv.weight' has shape": scaled("input_blocks.3.1.qkv.weight", 1.0, 128, 128, 1, 1),
    "blocks in its decoder at 3 resolutions": renamed("output_blocks.5", "output.5"),
    "it has 0 blocks in its decoder": lambda s: [s.pop(name) for name in list(s) if "output" in name],
    "KeyError: 'input_blocks.3.0.out_layers.3.weight'": renamed("input_blocks.3.0", "input_blocks.33.0"),
    "input_blocks.5 has 96 channels": scaled("input_blocks.5.0.out_layers.3.weight", 1.0, 96, 96, 3, 3),
    "holds NaN or infinity": scaled("out.0.bias", float("nan")),
    "its tensors have no names": lambda s: s.update({3: torch.zeros(2)}),
    "which no weights have": lambda s: s.update({"out.0.bias": torch.zeros(64, dtype=torch.int64)}),
    "block_out_channels|whole number from 1 to 1024": scaled("out.2.weight", 1.0, 1025, 64, 3, 3),
}  # fmt: skip


@pytest.mark.parametrize("why", CHANGES)
def test_a_file_of_another_network_is_refused_with_what_is_wrong(tmp_path, net, why):
    state = net.state_dict()
    CHANGES[why](state)
    path = tmp_path / "cd_toy16_l2.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match=f"cd_toy16_l2.pt is not a network of openai's .*({why})") as error:
        load_teacher(path)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500


def test_pictures_that_cannot_be_halved_are_refused(tmp_path, net):
    with pytest.raises(ValueError, match="18 × 18 cannot be halved 2 times"):
        load_teacher(write(tmp_path / "cd_toy18_l2.pt", net))


class Trap:
    def __init__(self, place) -> None:
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("how", ["trap", "trap beside", "pickle", "nested", "cut", "text", "a module"])
def test_a_file_of_anything_else_is_refused_and_nothing_in_it_runs(tmp_path, net, how):
    path, mark = tmp_path / "edm_toy16_ema.pt", tmp_path / "sprung"
    content = {
        "trap": Trap(mark),
        "trap beside": net.state_dict() | {"out.2.bias": Trap(mark)},
        "nested": {"state_dict": net.state_dict()},
        "a module": net,
    }
    torch.save(content.get(how, net.state_dict()), path)
    whole = path.read_bytes()
    if how == "pickle":
        path.write_bytes(pickle.dumps(Trap(mark)))
    elif how == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "text":
        path.write_text("<html>404</html>")
    with pytest.raises(
        ValueError, match="edm_toy16_ema.pt is refused: it is no file of weights alone"
    ) as error:
        load_teacher(path)
    assert not mark.exists() and len(str(error.value).splitlines()) == 1


def test_published_architectures_are_read_from_their_shapes():
    """ImageNet and LSUN as diffusers' convert_consistency_to_diffusers.py has them, without their memory."""
    from cdedu.networks import bounds
    from cdedu.pretrained.openai import architecture

    known = {
        64: (
            dict(width=192, multipliers=(1, 2, 3, 4), layers=3, attention=(1, 2, 3), classes=1000),
            "scale_shift",
        ),
        256: (
            dict(width=256, multipliers=(1, 1, 2, 2, 4, 4), layers=2, attention=(3, 4, 5), scale_shift=False),
            "default",
        ),
    }
    for size, (options, shift) in known.items():
        with bounds.without_memory():
            net = OpenaiUNet(**options)
        found = architecture(bounds.shapes_of(net.state_dict()), size)
        widths, attention = [options["width"] * m for m in options["multipliers"]], options["attention"]
        downs = [
            "AttnDownBlock2D" if i in attention else "ResnetDownsampleBlock2D" for i in range(len(widths))
        ]
        ups = [
            "AttnUpBlock2D" if i in attention else "ResnetUpsampleBlock2D"
            for i in reversed(range(len(widths)))
        ]
        assert found["block_out_channels"] == widths and found["layers_per_block"] == options["layers"]
        assert (found["down_block_types"], found["up_block_types"]) == (downs, ups)
        assert found["resnet_time_scale_shift"] == shift and found["attention_head_dim"] == 64
        assert found["num_class_embeds"] == options.get("classes")
