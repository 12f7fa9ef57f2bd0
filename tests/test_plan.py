"""Plans: counted numbers against other ways of counting them, and estimates that follow from them."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cdedu import cli
from cdedu.course import plan as planning
from cdedu.course.plan import CARDS, SHAPES, Card, Footprint, footprint, forwards, lpips_footprint, plan
from cdedu.data import load_data
from cdedu.recipes import Network, Recipe, StudentStage, recipes
from cdedu.records import read_record
from cdedu.training import distill, train_teacher
from scripts.bench import throughput

SMALL = Network("unet", width=16, depth=1, multipliers=(1, 2), attention=(8,), classes=11)
LONG = ("imagenet64", "lsun256", "cifar10-ddpmpp", "cifar10-easy")
GB = 1e9


def named(parts: tuple[tuple[str, int], ...], beginning: str) -> int:
    return sum(size for part, size in parts if part.startswith(beginning))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.weekly if name in LONG else ()) for name in recipes]
)
def test_every_recipe_can_be_planned_with_the_parameters_that_it_has(name):
    recipe = recipes[name]
    with torch.device("meta"):
        network = recipe.network.build(SHAPES[recipe.data])
    count = sum(p.numel() for p in network.parameters())
    for role in ("teacher", "student"):
        got, stage = plan(name, "h200", role=role), getattr(recipe, role)
        assert got.parameters == count and got.images == stage.steps * stage.batch
        assert got.hours > 0 and 0 < got.total_memory < 141 * GB and got.micro_batch
        assert bool(got.lpips_flops) == (role == "student" and stage.distance == "lpips")


@pytest.mark.parametrize("data", ["two_moons", "digits", "tinted-digits", "clouds", "modes"])
def test_a_shape_is_that_of_the_data(data):
    assert SHAPES[data] == tuple(load_data(data).train.shape[1:])


class Convolutions(nn.Module):
    """Two convolutions, for which everything can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x, c_noise, labels=None):
        return self.second(self.first(x).relu())


def test_a_small_network_is_counted_as_by_hand(monkeypatch):
    monkeypatch.setattr(Network, "build", lambda self, shape: Convolutions())
    footprint.cache_clear()
    size = 8 * 8
    products = size * (5 * 3 * 9 + 3 * 5)
    weights = (3 * 5 * 9 + 5) + (5 * 3 + 3)
    got = footprint(Network("unet"), (3, 8, 8))
    # The first convolution keeps its input; relu and the second share the result of relu.
    assert got == Footprint(weights, 2 * products, 4 * size * (3 + 5), 0)
    half = footprint(Network("unet"), (3, 8, 8), half=True)
    assert (half.parameters, half.flops) == (weights, 2 * products)
    assert half.activations == 2 * size * (3 + 5)
    assert half.copies == 2 * (weights - 5 - 3)  # a bias is not needed again
    footprint.cache_clear()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_without_numbers_are_those_of_a_real_pass(precision):
    """On a CPU, where a real pass can be had, and under its rules of autocast."""

    def saved(n: int) -> int:
        x, t, labels = torch.zeros(n, 3, 16, 16), torch.zeros(n), torch.zeros(n, dtype=torch.long)
        with torch.autocast("cpu", torch.bfloat16, precision == "bf16"):
            return planning.saved_bytes(lambda: net(x, t, labels), net.parameters())

    net = SMALL.build((3, 16, 16))
    real = saved(2) - saved(1)
    with planning._no_numbers(device="cpu"):
        net = SMALL.build((3, 16, 16))
        assert saved(2) - saved(1) == pytest.approx(real, rel=0.02)


def test_on_a_gpu_group_norms_stay_in_fp32_so_half_precision_saves_little():
    """The seventh that chapter 10 speaks of, which a CPU's autocast would not show; nothing of it leaks out."""
    network = recipes["cifar10-small"].network
    full, half = (footprint(network, (3, 32, 32), half) for half in (False, True))
    assert half.activations / full.activations == pytest.approx(6 / 7, abs=0.01) and half.flops == full.flops
    assert full.copies == 0 < half.copies < 2 * half.parameters
    assert not torch.is_autocast_enabled("cuda") and torch.zeros(1).device.type == "cpu"


def test_flops_are_those_without_memory_too():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        SMALL.build((3, 16, 16))(torch.zeros(1, 3, 16, 16), torch.zeros(1), torch.zeros(1, dtype=torch.long))
    assert footprint(SMALL, (3, 16, 16)).flops == counter.get_total_flops()


METHODS = [
    ("distillation", "heun", 6),
    ("distillation", "euler", 5),
    ("easy", "heun", 4),
    ("continuous", "heun", 7),
]


@pytest.mark.parametrize("method, solver, passes", METHODS)
def test_a_real_step_costs_so_many_forward_passes(method, solver, passes):
    """A wide network, so that next to nothing is lost at its ends, where a backward pass is shorter."""
    student = replace(recipes["toy"].student, method=method, solver=solver, batch=8)
    recipe = replace(recipes["toy"], network=Network(width=256, depth=8), student=student)
    recipe = replace(recipe, teacher=replace(recipe.teacher, steps=1, batch=8))
    data, one = load_data("two_moons"), footprint(recipe.network, (2,)).flops
    (state,) = train_teacher(recipe, data)
    for role, wanted, states in (
        ("student", passes, distill(recipe, state.result, data)),
        ("teacher", 3, train_teacher(recipe, data)),
    ):
        with FlopCounterMode(display=False) as counter:
            next(states)
        assert forwards(recipe, role) == wanted
        assert counter.get_total_flops() / (8 * one) == pytest.approx(wanted, abs=0.1)


def test_lpips_is_vgg_three_times_over():
    """Both pictures forward, one of them backward to its pixels: counted from VGG's own layers."""
    vgg, side, channels = 0, 224, 3
    for width, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(layers):
            vgg, channels = vgg + 2 * 9 * channels * width * side * side, width
        side //= 2
    got = lpips_footprint((3, 32, 32))
    assert got.flops == pytest.approx(3 * vgg, rel=0.01) and got.parameters == pytest.approx(14.7e6, rel=0.01)
    assert 60e6 < got.activations < 200e6
    assert lpips_footprint((3, 64, 64)).flops == got.flops, "both are enlarged to 224 pixels"
    large = lpips_footprint((3, 256, 256))  # is not shrunk to them
    assert large.flops == pytest.approx(got.flops * (256 / 224) ** 2, rel=1e-3)


def test_hours_follow_from_work_peak_and_share():
    toy, one = recipes["toy"], footprint(recipes["toy"].network, (2,)).flops
    got = plan("toy", "a100", share=0.5)
    assert got.flops == 6 * one and got.lpips_flops == 0
    assert got.rate == pytest.approx(0.5 * 312e12 / (6 * one))
    assert got.hours == pytest.approx(toy.student.steps * toy.student.batch / got.rate / 3600)
    assert plan("toy", "a100", share=0.25).hours == pytest.approx(2 * got.hours)
    assert plan("toy", "a100", share=0.5, precision="fp32").rate == pytest.approx(got.rate / 2)
    assert plan("toy", "a100").share == planning.SHARE
    mine = replace(toy, block=16)
    assert got.cost is None
    assert plan(mine, "a100", 4, share=0.5, price=3.0).cost == pytest.approx(3 * got.hours)


def test_lpips_runs_at_the_speed_of_fp32():
    """On a T4, which has no TF32, it takes longer than all the rest."""
    got, lpips = plan("cifar10", "t4", share=0.3), lpips_footprint((3, 32, 32)).flops
    assert 1 / got.rate == pytest.approx(got.flops / 0.3 / 65e12 + lpips / 0.3 / 8.1e12)
    assert lpips / 8.1 > got.flops / 65


def test_twice_the_gpus_take_half_the_time_and_half_the_parts():
    two, four = (plan("cifar10-small", "a10", n, memory=0.7) for n in (2, 4))
    assert two.hours == pytest.approx(2 * four.hours) and two.micro_batch == four.micro_batch
    assert two.accumulation == 2 * four.accumulation == 4 and two.memory == four.memory


def test_memory_is_the_sum_of_its_parts():
    recipe = recipes["cifar10-small"]
    network = replace(recipe.network, dropout=0.0)
    one, half = (footprint(network, (3, 32, 32), half) for half in (False, True))
    weights = 4 * one.parameters
    teacher = plan(recipe, "h100", role="teacher", precision="fp32")
    # weights, gradients, two moments, three averages
    assert teacher.total_memory == 7 * weights + 512 * one.activations
    slow = replace(recipe, student=replace(recipe.student, target_rate=0.9))
    student = plan(slow, "h100", 2)
    # besides: teacher, target, gradients in transit, copies in half precision
    assert student.total_memory == 10 * weights + half.copies + 256 * half.activations
    assert (
        named(student.memory, "optimizer") == 2 * weights and named(student.memory, "averages") == 3 * weights
    )
    easy = replace(recipe, student=replace(recipe.student, method="easy"))
    assert named(plan(easy, "h100").memory, "teacher") == 0


def test_the_part_of_a_batch_is_the_largest_that_fits():
    got = plan("cifar10", memory=16, peak=100, gpu="my card")
    free = planning.USABLE * 16 * GB - got.total_memory
    per_image = (named(got.memory, "activations") + named(got.memory, "LPIPS's act")) / got.micro_batch
    assert 0 <= free < 16 * per_image and got.micro_batch % 16 == 0
    assert got.accumulation == -(-512 // got.micro_batch) and got.card == Card(100, 50, 16)
    tight = plan("cifar10", "t4", memory=4)
    assert tight.micro_batch == 0 and "images that fit at once | none" in str(tight)
    assert "Not one block of 16 images fits into 4 GB. A smaller one fits: --block 8." in str(tight)
    assert "Choose a larger card" in str(plan("cifar10", "t4", memory=1))


def test_the_smaller_block_that_is_named_can_be_planned():
    """The most that fit are six, and six do not divide 2,048."""
    said = re.search(r"--block (\d+)", str(plan("imagenet64", "t4")))
    recipe = replace(recipes["imagenet64"], block=int(said[1]))
    assert said[1] == "4" and plan(recipe, "t4").micro_batch == 4


def test_a_card_without_bf16_is_planned_in_fp16_and_the_plan_says_so():
    for gpu in ("t4", "V100"):
        got = plan("toy", gpu)
        assert got.precision == "fp16" and f"A {gpu.lower()} has no bf16; this is a plan for fp16." in str(
            got
        )
    assert plan("toy", "t4", precision="fp32").precision == "fp32" and not plan("toy", "l4").notes


NAMES = {
    "Tesla T4": "t4", "NVIDIA A10": "a10", "NVIDIA A100-SXM4-40GB": "a100", "NVIDIA A100-SXM4-80GB": "a100-80",
    "Tesla V100-SXM2-32GB": "v100-32", "NVIDIA GeForce RTX 4090": "rtx4090", "RTX 4090": "rtx4090", "NVIDIA L4": "l4",
    "NVIDIA L40S": "l40s", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA H100 PCIe": "h100-pcie", "NVIDIA H200": "h200",
    "NVIDIA A10G": None, "NVIDIA GeForce RTX 4090 Laptop GPU": None, "NVIDIA GeForce RTX 3090 Ti": None,
    "NVIDIA A100-SXM4-80GB MIG 1g.10gb": None, "rtx-4090": "rtx4090", "Tesla V100-SXM2-16GB": "v100", "a100 40GB": "a100",
    "NVIDIA A100 80GB PCIe": "a100-80", "RTX 4090 D": None, "RTX4090D": None, "NVIDIA H100 NVL": None, "a100 64GB": None,
    "NVIDIA H100 PCIe 80GB": "h100-pcie", "NVIDIA": None, "": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_known_by_the_name_that_pytorch_gives_it_and_its_sisters_are_not(name):
    if NAMES[name]:
        assert planning._card(name, None, None) == (NAMES[name], CARDS[NAMES[name]])
    else:
        with pytest.raises(ValueError, match="is not known; choose one of t4, .*--peak .* and --memory"):
            planning._card(name, None, None)
    assert planning._card(name, 70, 20)[1] == Card(
        70, 35, 20, bf16=NAMES[name] not in ("t4", "v100", "v100-32")
    )


def test_on_a_gpu_the_share_is_measured_unless_it_is_stated(monkeypatch):
    monkeypatch.setattr(planning, "_local_name", lambda: "NVIDIA A100-SXM4-80GB")
    seen = []

    def measure(rate, *what):
        seen.append(what)
        return rate

    got = plan("cifar10-small", measure=partial(measure, 78e12))
    network = replace(recipes["cifar10-small"].network, dropout=0.0)
    assert got.gpu == "a100-80" and got.share == 0.25 and "The share is measured" in str(got)
    assert seen == [(network, (3, 32, 32), "bf16")]
    assert plan("cifar10-small", share=0.4, measure=partial(measure, 78e12)).share == 0.4 and len(seen) == 1
    with pytest.raises(
        ValueError, match="measured 624 TFLOP/s on one a100-80, more than its peak of 312; .*--peak"
    ):
        plan("cifar10-small", measure=partial(measure, 624e12))


def test_the_rate_of_a_network_is_measured_over_the_seconds_asked_for(monkeypatch):
    """By a clock that stands still but for the passes: two milliseconds each."""
    now, passes = [0.0], []

    class Timed(Convolutions):
        def forward(self, *inputs):
            if not inputs[0].is_meta and type(inputs[0]) is torch.Tensor:
                now[0] += 0.002
                passes.append(len(inputs[0]))
            return super().forward(*inputs)

    footprint.cache_clear()
    monkeypatch.setattr(Network, "build", lambda self, shape: Timed())
    monkeypatch.setattr(planning.time, "perf_counter", lambda: now[0])
    rate = planning.measured_rate(Network("unet"), (3, 8, 8), "bf16", device="cpu", batch=4, seconds=0.1)
    one = footprint(Network("unet"), (3, 8, 8)).flops
    footprint.cache_clear()
    assert rate == pytest.approx(3 * 4 * one / 0.002) and passes == [4] * (3 + 50)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"gpus": 0}, "gpus = 0, but a run needs at least 1"),
        ({"gpus": 3}, "a batch of 512 on 3 GPUs is 170.667 samples each"),
        ({"gpus": 64}, "8 samples each, which must be a multiple of block = 16"),
        ({"share": 0.0}, "share = 0 of the peak, but it must be above 0 and at most 1"),
        ({"share": 1.5}, "share = 1.5 of the peak"),
        ({"share": float("nan")}, "share = nan of the peak"),
        ({"price": -1.0}, "price = -1, but an hour cannot cost less than nothing"),
        ({"gpu": "abacus"}, "gpu = 'abacus' is not known; choose one of t4, .*h200, or .*--peak .* and --memory"),
        ({"gpu": "abacus", "peak": 3.0}, "'abacus' is not known"),
        ({"peak": -3.0}, "peak = -3, but it must be positive"),
        ({"memory": 0.0}, "memory = 0, but it must be positive"),
        ({"role": "pupil"}, "role = 'pupil' is not known; choose one of teacher, student"),
        ({"precision": "fp8"}, "precision = 'fp8' is not known; choose one of bf16, fp16, fp32"),
        ({"shape": ()}, r"shape is a tuple of 0, but it must be a list of 1 to 4"),
        ({"shape": (3, 64, 64, 64)}, r"shape = \[3, 64, 64, 64\], but the network ncsnpp takes 3 dimensions"),
        ({"shape": (3, 0, 64)}, r"shape\[1\] = 0, but it must be a whole number from 1"),
        ({"recipe": "toy", "shape": (3, 8, 8)}, r"shape = \[3, 8, 8\], but the network mlp takes 1 dim"),
        ({"recipe": "cifar"}, "recipe 'cifar' is not known; choose one of toy, "),
        ({"recipe": Recipe("mine", "pictures.zip")}, "the size of 'pictures.zip' is not known here; give the shape"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_refused_at_the_door(options, words):
    with pytest.raises(ValueError, match=words):
        plan(**{"recipe": "cifar10", "gpu": "a100"} | options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_one_must_be_named():
    with pytest.raises(ValueError, match="there is no GPU here; say which one to plan for: --gpu t4, "):
        plan("toy")


def test_data_of_your_own_need_a_shape():
    mine = Recipe("mine", "pictures.zip", SMALL, student=StudentStage(steps=10, batch=4))
    assert plan(mine, "l4", shape=(3, 16, 16)).flops == 6 * footprint(SMALL, (3, 16, 16)).flops


def test_the_table_of_speeds_reads_what_its_script_writes(monkeypatch, tmp_path):
    path = tmp_path / "throughput.json"
    words = f"throughput.py --tiny --networks cifar10 --out {path}"
    monkeypatch.setattr("sys.argv", words.split())
    throughput.main()
    record = read_record(path)
    rows = {f"| cifar10 | {row['role']} | {row['loop']} |": row for row in record["metrics"]["rows"]}
    rows["| cifar10 | student | cdedu |"] |= {
        "precision": "fp16", "compiled": True, "images_per_second": 12345.6, "share_of_matmul_rate": 0.314,
    }  # fmt: skip
    lines, empty = (planning.throughput_table(given).splitlines() for given in (record, None))
    assert len(rows) == 4 and len(lines) == len(empty) == 2 + 8
    assert (
        all(line.endswith("|  |  | not yet measured |  |") for line in empty[2:]) and lines[:6] == empty[:6]
    )
    assert [line[: len(start)] for line, start in zip(lines[6:], rows, strict=True)] == [*rows]
    speed = rows["| cifar10 | teacher | plain |"]["images_per_second"]
    assert lines[6].startswith(f"| cifar10 | teacher | plain | fp32 | eager | {speed:,.0f} | ")
    assert lines[9] == "| cifar10 | student | cdedu | fp16 | compiled | 12,346 | 31% |"


TABLE = """\
| cifar10-small, student | 2 × t4, fp16 |
| --- | ---: |
| parameters | 3.6 M |
| training images | 15.4 M |
| one of them costs | 3.89 GFLOP |
| images a second, at 50% of the peak | 16,698 |
| hours | 0.26 |
| price, at 2 for a GPU's hour | 1 |
| memory: weights | 0.01 GB |
| memory: gradients | 0.01 GB |
| memory: optimizer, two moments | 0.03 GB |
| memory: averages of the weights | 0.04 GB |
| memory: teacher | 0.01 GB |
| memory: gradients on their way between GPUs | 0.01 GB |
| memory: weights in half precision | 0.01 GB |
| memory: activations of 256 images | 1.72 GB |
| memory in all, of 16 GB | 1.9 GB |
| images that fit at once | 256 |

A t4 has no bf16; this is a plan for fp16.
"""


def test_the_command_prints_the_plan(monkeypatch, capsys):
    words = "plan cifar10-small --gpu t4 --gpus 2 --share .5 --price 2"
    monkeypatch.setattr("sys.argv", ["cdedu", *words.split()])
    cli.main()
    assert capsys.readouterr().out == TABLE
    monkeypatch.setattr("sys.argv", ["cdedu", *words.split(), "--gpus", "0"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "gpus = 0, but" in capsys.readouterr().err


@pytest.mark.parametrize("model, millions", [("sd15", 67.5), ("sdxl", 197)])
def test_adapters_are_as_large_as_the_published_ones(model, millions):
    """LCM-LoRA's model cards say 67.5 M and 197 M."""
    pytest.importorskip("peft")
    from cdedu.course.plan_text import adapter_size

    assert adapter_size(model, 64) / 1e6 == pytest.approx(millions, rel=0.005)


def test_a_plan_for_stable_diffusion():
    pytest.importorskip("peft")
    from cdedu.course.plan_text import plan_text, text_footprint

    net = text_footprint("sd15", True, False)
    assert net.parameters / 1e6 == pytest.approx(859.5, abs=0.1)  # as diffusers counts it
    found = plan_text("sd15", "a100-80", lora=64, batch=16)
    assert found.micro_batch == 16 and found.images == 16_000 and found.flops == 6 * net.flops
    assert dict(found.memory)["frozen weights of the teacher"] == 2 * net.parameters
    small = plan_text("sd15", "t4", lora=8)  # no bf16: the frozen weights stay in fp32
    assert (
        small.precision == "fp16"
        and dict(small.memory)["frozen weights of the teacher"] == 4 * net.parameters
    )
    target = dict(plan_text("sd15", "a100-80", lora=0, target_rate=0.95).memory)
    assert target["average of the target"] == target["average of the weights"] == 4 * net.parameters
    (advice,) = [note for note in plan_text("sd15", "t4", lora=0).notes if "Not one" in note]
    assert "What helps: an adapter (--lora 64)" in advice
    (advice,) = [
        note
        for note in plan_text("sd15", "x", lora=64, peak=1, memory=3, precision="fp32").notes
        if "Not one" in note
    ]
    assert "Most of it would be frozen weights of the teacher" in advice and "--lora" not in advice
    with pytest.raises(ValueError, match="model = 'dalle' is not known; choose one of sd15"):
        plan_text("dalle", "a100")
