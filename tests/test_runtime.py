"""Where a step runs must not change what it computes: parts of a batch, processes, precision, compilation, devices."""

import copy
from collections import deque
from dataclasses import replace

import pytest
import torch

from cdedu import losses, training
from cdedu import runtime as runtime_module
from cdedu.data import Dataset
from cdedu.losses import distillation_loss
from cdedu.networks import MLP
from cdedu.networks.edm import DDPMpp
from cdedu.noise import LogNormal, karras_sigmas
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage
from cdedu.runtime import Runtime, fast_precision
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import Batches, distill, student_of, train_teacher

G = torch.Generator().manual_seed(0)
X = 0.5 * torch.randn(200, 2, generator=G)
POINTS = Dataset("points", X[:150], X[150:])
SQUARES = torch.randint(0, 256, (40, 3, 8, 8), generator=G, dtype=torch.uint8)
PICTURES = Dataset("pictures", SQUARES[:30], SQUARES[30:], torch.arange(30) % 3, torch.arange(10) % 3)

MLP_RECIPE = Recipe(
    "blocks",
    "points",
    Network(width=16, depth=2),
    TeacherStage(steps=6, batch=16),
    StudentStage(steps=6, batch=16, points=6, target_rate=0.9, ema=0.9, weight="inverse_gap"),
    block=4,
)
IMAGE_RECIPE = replace(
    MLP_RECIPE,
    network=Network("ddpmpp", width=8, depth=1, multipliers=(1, 2), attention=(4,), classes=3),
    flip=True,
)
MU_ZERO = replace(MLP_RECIPE, student=replace(MLP_RECIPE.student, steps=1, target_rate=0.0, lr=1e-2))
PARTS = [
    pytest.param(MLP_RECIPE, POINTS, 1e-6, id="points"),
    pytest.param(
        IMAGE_RECIPE, PICTURES, 2e-4, id="pictures"
    ),  # Adam magnifies the rounding of gradients near 0
]


def teacher_of(recipe: Recipe, data: Dataset) -> Teacher:
    torch.manual_seed(1)
    return Teacher(recipe.network.build(tuple(data.train.shape[1:])))


def run(role: str, recipe: Recipe, data: Dataset, runtime: Runtime | None = None, **options):
    runtime = runtime or Runtime()
    if role == "teacher":
        states = train_teacher(recipe, data, runtime=runtime, **options)
    else:
        states = distill(recipe, teacher_of(recipe, data), data, runtime=runtime, **options)
    return deque(states, maxlen=1).pop()


def difference(a, b) -> float:
    """Largest relative difference of the weights of two runs, of each tensor's largest entry."""
    a, b = a.tensors(), b.tensors()
    assert a.keys() == b.keys()
    pairs = [(a[k].cpu().float(), b[k].cpu().float()) for k in a if not k.startswith("optimizer")]
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-3)) for x, y in pairs)


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("recipe, data, limit", PARTS)
def test_parts_of_a_batch_give_the_weights_of_the_whole(role, recipe, data, limit):
    whole = run(role, recipe, data)
    for size in (4, 11):  # 11 is rounded down to whole blocks
        assert difference(run(role, recipe, data, Runtime(micro_batch=size)), whole) < limit
    other = replace(recipe, block=8)
    assert difference(run(role, other, data), whole) > 1e-3, "blocks are part of the seed"


def out_of_memory_above(monkeypatch, size: int) -> list[int]:
    """A device on which a loss of more than ``size`` samples does not fit."""
    asked: list[int] = []

    def limited(function):
        def loss(*args, **kwargs):
            x0 = args[1] if function.__name__ == "denoising_loss" else args[3]
            asked.append(len(x0))
            if len(x0) > size:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return function(*args, **kwargs)

        return loss

    for name in ("denoising_loss", "distillation_loss"):
        monkeypatch.setattr(training, name, limited(getattr(training, name)))
    return asked


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_when_memory_runs_out_parts_are_halved_aloud_and_the_weights_stay_the_same(monkeypatch, capsys, role):
    whole = run(role, MLP_RECIPE, POINTS)
    asked = out_of_memory_above(monkeypatch, 5)
    runtime = Runtime()
    halved = run(role, MLP_RECIPE, POINTS, runtime)
    assert difference(halved, whole) < 1e-6 and halved.step == whole.step
    assert asked == [16, 8] + [4] * 4 * 6
    assert capsys.readouterr().out.splitlines() == [
        "memory ran out with 16 samples at once; continuing with 8, the batch stays the same",
        "memory ran out with 8 samples at once; continuing with 4, the batch stays the same",
    ]
    assert runtime.describe()["micro_batch"] == 4


@pytest.mark.parametrize("block", [4, 0])
def test_memory_too_small_for_one_block_is_an_error_that_says_what_to_do(monkeypatch, block):
    out_of_memory_above(monkeypatch, 3)
    with pytest.raises(
        MemoryError, match=r"cpu has too little memory for \d+ samples at once; use a smaller --micro"
    ):
        run("teacher", replace(MLP_RECIPE, block=block), POINTS)


def share(recipe: Recipe, world: int, rank: int) -> Batches:
    runtime = Runtime()
    runtime.world, runtime.rank = world, rank
    return Batches(recipe, "student", recipe.student.batch, PICTURES, runtime)


def drawn(sampler: Batches, micro_batch: int | None, step: int = 3) -> list[torch.Tensor]:
    columns = zip(
        *(sampler.draw(step, p, LogNormal().sample) for p in sampler.parts(micro_batch)), strict=True
    )
    x0, sigma, noise, cond = columns
    return [torch.cat(x) for x in (x0, sigma, noise, [c["labels"] for c in cond])]


def test_what_a_sample_gets_does_not_depend_on_processes_or_parts():
    whole = drawn(share(IMAGE_RECIPE, 1, 0), None)
    for world, micro_batch in ((1, 4), (2, None), (2, 4), (4, None)):
        parts = [drawn(share(IMAGE_RECIPE, world, rank), micro_batch) for rank in range(world)]
        assert all(torch.cat(p).equal(w) for p, w in zip(zip(*parts, strict=True), whole, strict=True))
    x0, sigma, noise, _ = whole
    assert x0.min() >= -1 and x0.max() <= 1 and len(sigma.unique()) == 16
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert not noise.equal(drawn(share(IMAGE_RECIPE, 1, 0), None, step=4)[2])


@pytest.mark.parametrize("batch, each", [(15, "7.5"), (20, "10"), (4, "2")])
def test_a_batch_that_does_not_divide_into_whole_blocks_is_refused(batch, each):
    recipe = replace(IMAGE_RECIPE, student=replace(IMAGE_RECIPE.student, batch=batch))
    with pytest.raises(
        ValueError, match=rf"a batch of {batch} on 2 processes is {each} samples each.*block = 4;"
    ):
        share(recipe, 2, 0)


def test_half_of_the_images_are_mirrored_and_their_labels_stay():
    recipe = replace(IMAGE_RECIPE, student=replace(IMAGE_RECIPE.student, batch=2000))
    x0, _, _, labels = drawn(share(recipe, 1, 0), None)
    known = {t.numpy().tobytes(): (i, flip) for flip in (False, True) for i, t in enumerate(SQUARES[:30].flip(-1) if flip else SQUARES[:30])}  # fmt: skip
    found = [known[t.contiguous().numpy().tobytes()] for t in ((x0 + 1) * 127.5).round().byte()]
    assert [int(PICTURES.train_labels[i]) for i, _ in found] == labels.tolist()
    assert sum(flip for _, flip in found) / 2000 == pytest.approx(0.5, abs=0.04)
    again = drawn(share(recipe, 1, 0), None)
    assert x0.equal(again[0])
    still = replace(recipe, flip=False)
    plain = drawn(share(still, 1, 0), None)[0]
    assert all(not known[t.contiguous().numpy().tobytes()][1] for t in ((plain + 1) * 127.5).round().byte())


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_bf16_trains_on_the_cpu_in_full_precision_weights(role):
    full = run(role, IMAGE_RECIPE, PICTURES)
    half = run(role, IMAGE_RECIPE, PICTURES, Runtime(precision="bf16"))
    assert half.loss == pytest.approx(full.loss, rel=0.05) and half.loss != full.loss
    assert all(p.dtype == torch.float32 for p in half.model.parameters())
    assert all(p.dtype == torch.float32 for p in half.average.parameters())


def test_only_the_networks_run_in_half_precision():
    """The solver's step, the boundary and the loss stay in float32; c_noise reaches the network unrounded."""
    seen = []

    class Spy(MLP):
        def forward(self, x, c_noise, labels=None):
            out = super().forward(x, c_noise, labels)
            seen.append((c_noise.dtype, out.dtype))
            return out

    torch.manual_seed(0)
    student = ConsistencyModel(Spy(2, 16, 1))
    with Runtime(precision="bf16").autocast():
        loss = distillation_loss(
            student, student, Teacher(Spy(2, 16, 1)), X[:8], karras_sigmas(6), generator=G
        )
        x = X[:8]
        assert student(x, 0.002).equal(x)
    assert loss.dtype == torch.float32 and {*seen} == {(torch.float32, torch.bfloat16)}


@pytest.mark.parametrize("method", ["distillation", "easy", "continuous"])
@pytest.mark.parametrize("rate", [0.0, 0.9])
def test_the_loss_itself_is_never_in_half_precision(monkeypatch, method, rate):
    """Every call of a network has an autocast region of its own, and solver, distance and weight lie outside all of them."""
    inside, outside = [], []
    forward = MLP.forward
    monkeypatch.setattr(
        MLP, "forward", lambda *a, **k: (inside.append(torch.is_autocast_enabled("cpu")), forward(*a, **k))[1]
    )
    for module, name in (
        (training, "distillation_loss"),
        (training, "easy_consistency_loss"),
        (losses, "l2"),
    ):
        function = getattr(module, name)

        def spy(*args, _function=function, **kwargs):
            outside.append(torch.is_autocast_enabled("cpu"))
            return _function(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    stage = replace(MLP_RECIPE.student, steps=1, method=method, target_rate=rate)
    state = run("student", replace(MLP_RECIPE, student=stage), POINTS, Runtime(precision="bf16"))
    assert inside and all(inside) and outside and not any(outside)
    assert state.mean_loss.dtype == torch.float32


def test_a_call_without_gradient_leaves_the_next_one_its_gradient():
    """Before torch 2.10 the weights' half-precision copies of a call under no_grad served the next call in the same region,
    which then had no gradient. With a region for each call there is no copy left to serve."""
    full, half = (run("student", MU_ZERO, POINTS, Runtime(precision=p)) for p in ("fp32", "bf16"))
    before = student_of(teacher_of(MU_ZERO, POINTS), MU_ZERO, POINTS)
    moved = [
        torch.cat(
            [(a - b).flatten() for a, b in zip(state.model.parameters(), before.parameters(), strict=True)]
        )
        for state in (full, half)
    ]
    assert torch.cosine_similarity(*moved, dim=0) > 0.9 and moved[1].abs().max() > 0


def test_copies_of_a_network_have_its_order_in_memory():
    """A target in another order, or eager beside a compiled student, would draw other dropout masks."""
    recipe = replace(IMAGE_RECIPE, student=replace(IMAGE_RECIPE.student, steps=1, more_emas=(0.5,)))
    state = run("student", recipe, PICTURES, Runtime(channels_last=True))
    for module in (state.model, state.average, state.target, *state.more):
        weights = [p for p in module.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
        assert weights and all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("slower, wanted", [(0.5, "bf16"), (0.8, "fp32"), (20, "fp32")])
def test_a_processor_gets_the_precision_that_it_is_fast_in(monkeypatch, slower, wanted):
    clock = [0.0]
    forward = torch.nn.Conv2d.forward

    def timed(self, x):
        clock[0] += 1.0 if x.dtype == torch.float32 else slower
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", timed)
    monkeypatch.setattr(runtime_module.time, "perf_counter", lambda: clock[0])
    assert fast_precision(torch.device("cpu")) == wanted


def test_precisions_are_refused_where_they_cannot_be_had(monkeypatch):
    with pytest.raises(ValueError, match="precision 'fp8' is not known; use fp32, bf16 or fp16"):
        Runtime(precision="fp8")
    with pytest.raises(ValueError, match="fp16 needs a GPU; use bf16 or fp32 on the CPU"):
        Runtime(precision="fp16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Tesla T4")
    with pytest.raises(ValueError, match="Tesla T4 cannot compute in bf16; use fp16 or fp32"):
        Runtime("cuda", "bf16")


def test_gradients_are_scaled_for_fp16_only():
    for precision in ("fp32", "bf16"):
        assert not Runtime(precision=precision).scaler.is_enabled()
        weight = torch.ones(1, requires_grad=True)
        Runtime(precision=precision).backward(3 * weight.sum())
        assert weight.grad == 3


def test_one_process_says_so():
    runtime = Runtime(micro_batch=8)
    assert runtime.main and (runtime.rank, runtime.world) == (0, 1)
    assert runtime.any(True) and not runtime.any(False)
    assert runtime.describe() == {
        "processes": 1, "precision": "fp32", "compile": False, "micro_batch": 8, "channels_last": False, "tf32": None,
    }  # fmt: skip


# On a GPU


@pytest.mark.cuda
def test_dropout_is_synchronised_on_the_gpu():
    """Student and target at the same point twice: the loss is exactly 0 if, and only if, the masks are the same."""
    net = DDPMpp(8, 3, 8, (1, 2), 1, (4,), dropout=0.5).cuda()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    student, x = ConsistencyModel(net).train(), torch.randn(4, 3, 8, 8, device="cuda")
    sigmas = torch.tensor([2.0, 2.0], device="cuda")
    loss = distillation_loss(student, student, lambda x, s: 0 * x, x, sigmas, index=torch.zeros(4, dtype=torch.long), noise=x)  # fmt: skip
    assert loss.eq(0).all() and not student(x, 2.0).equal(student(x, 2.0))


@pytest.mark.cuda
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_the_gpu_computes_what_the_cpu_does(role, monkeypatch):
    """The same draws on both: a step's gradient differs by rounding alone."""
    draw = Batches.draw

    def on_cpu(self, step, part, level):
        device, train, labels = self.device, self.train, self.labels
        self.device, self.train, self.labels = torch.device("cpu"), train.cpu(), labels.cpu()
        *tensors, cond = draw(self, step, part, level)
        self.device, self.train, self.labels = device, train, labels
        return *(t.to(device) for t in tensors), {k: v.to(device) for k, v in cond.items()}

    monkeypatch.setattr(Batches, "draw", on_cpu)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = run(role, IMAGE_RECIPE, PICTURES), run(role, IMAGE_RECIPE, PICTURES, Runtime("cuda"))
    assert there.loss == pytest.approx(here.loss, rel=1e-4)
    assert difference(there, here) < 1e-2  # six steps of an optimiser that divides by small numbers


@pytest.mark.cuda
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_compiled_and_eager_networks_agree(role, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    eager = run(role, IMAGE_RECIPE, PICTURES, Runtime("cuda"))
    compiled = run(role, IMAGE_RECIPE, PICTURES, Runtime("cuda", compile=True))
    assert compiled.loss == pytest.approx(eager.loss, rel=1e-3)
    assert compiled.tensors().keys() == eager.tensors().keys()


@pytest.mark.cuda
@pytest.mark.parametrize("precision, tolerance", [("fp32", 1e-4), ("bf16", 3e-2), ("fp16", 1e-2)])
def test_mixed_precision_is_near_fp64(precision, tolerance):
    if precision == "bf16" and torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("this GPU cannot compute in bf16")
    teacher = teacher_of(IMAGE_RECIPE, PICTURES).eval()
    exact = copy.deepcopy(teacher).double()
    x, labels = torch.randn(16, 3, 8, 8, generator=G), torch.arange(16) % 3
    runtime = Runtime("cuda", precision)
    teacher.cuda()
    for sigma in (0.01, 1.0, 50.0):
        with torch.no_grad(), runtime.autocast():
            got = teacher((sigma * x).cuda(), sigma, labels=labels.cuda())
            wanted = exact((sigma * x).double(), sigma, labels=labels)
        assert got.dtype == torch.float32
        assert (got.cpu() - wanted).norm() < tolerance * wanted.norm()


@pytest.mark.cuda
def test_fp16_trains_with_scaled_gradients_on_the_gpu():
    runtime = Runtime("cuda", "fp16")
    assert runtime.scaler.is_enabled()
    half = run("student", IMAGE_RECIPE, PICTURES, runtime)
    assert all(t.isfinite().all() for t in half.tensors().values())
