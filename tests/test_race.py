"""The race: the meter, the budget, entries that get a row, and those that must not."""

import copy
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save

import cdedu
from cdedu import add_noise, karras_sigmas, losses
from cdedu.data import load_data
from cdedu.evaluation.meter import Meter
from cdedu.evaluation.protocol import protocol_of
from cdedu.methods.flow_map import FlowMap, mean_flow_loss
from cdedu.methods.progressive import progressive_loss
from cdedu.noise import LogNormal, draw_steps
from cdedu.records import read_record

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the race forks")
if sys.platform != "win32":
    from cdedu.course.race import METHODS, EntryError, Race, run, table
    from cdedu.course.race.inside import Budget, OutOfBudget, code_lines
    from cdedu.course.race.outside import LINES, found_in, read_entry, walk

SHAPE = (1, 8, 8)
PAGE = ROOT / "book" / "reference" / "race.md"


@pytest.fixture(scope="module")
def teacher():
    return cdedu.load("digits-teacher").requires_grad_(False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- the meter -------------------------------------------------------------------------------------


def test_a_forward_pass_counts_one_a_sample_and_training_three(teacher):
    student, x = cdedu.ConsistencyModel.from_teacher(teacher), torch.zeros(4, *SHAPE)
    with Meter(teacher, SHAPE) as meter:
        teacher(x, 1.0)
        assert meter.evaluations == 4
        student(x, 1.0).sum().backward()
    assert meter.evaluations == pytest.approx(16, rel=1e-3)
    teacher(x, 1.0)
    assert meter.evaluations == pytest.approx(16, rel=1e-3)  # outside of its block nothing counts


@pytest.mark.parametrize(
    ("cost", "loss"),
    [
        (6, lambda f, d, x: losses.distillation_loss(f, f, d, x, karras_sigmas(18))),
        (5, lambda f, d, x: losses.distillation_loss(f, f, d, x, karras_sigmas(18), solver=cdedu.euler_step)),
        (4, lambda f, d, x: losses.consistency_training_loss(f, f, x, karras_sigmas(18))),
        (7, lambda f, d, x: losses.continuous_consistency_loss(f, f, x, torch.ones(len(x)), teacher=d)),
    ],
)
def test_losses_cost_what_the_chapters_say(teacher, cost, loss):
    student, x = cdedu.ConsistencyModel.from_teacher(teacher), torch.zeros(3, *SHAPE)
    with Meter(teacher, SHAPE) as meter:
        loss(student, teacher, x).mean().backward()
    assert meter.evaluations == pytest.approx(3 * cost, rel=1e-3)


def test_a_network_in_parts_and_under_other_names_counts_the_same(teacher):
    bare = copy.deepcopy(teacher.network.net)
    with Meter(teacher, SHAPE) as meter:
        torch.nn.functional.conv2d(torch.zeros(1, *SHAPE), bare.conv_in.weight, padding=1)
        part = meter.evaluations
        bare.forward.__func__(bare, torch.zeros(1, *SHAPE), torch.zeros(1))
    assert 0 < part < 0.1
    assert meter.evaluations == pytest.approx(1 + part)


def test_attention_and_products_in_place_count_as_products(teacher):
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    with Meter(teacher, SHAPE) as meter:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert meter.operations == 2 * 2 * (2 * 3 * 5 * 7 * 8)  # q kᵀ, and by v
        out.sum().backward()
        assert meter.operations == (2 + 5) * 2 * (
            2 * 3 * 5 * 7 * 8
        )  # q kᵀ once more, and two products for each of the two
        before = meter.operations
        torch.ones(2, 4).addmm_(torch.ones(2, 3), torch.ones(3, 4))
        torch.ones(5, 2, 4).baddbmm_(torch.ones(5, 2, 3), torch.ones(5, 3, 4))
    assert meter.operations - before == 6 * 2 * (2 * 3 * 4)


def test_inference_mode_counts_the_same(teacher):
    with Meter(teacher, SHAPE) as meter, torch.inference_mode():
        teacher(torch.zeros(4, *SHAPE), 1.0)
    assert meter.evaluations == 4


A, IMAGES = torch.ones(4, 4), torch.ones(1, 4, 8, 8)


@pytest.mark.parametrize(
    "operation",
    [
        lambda: A.mv(A[0]),
        lambda: A[0].dot(A[0]),
        lambda: torch.addmv(A[0], A, A[0]),
        lambda: torch.addr(A, A[0], A[0]),
        lambda: torch.addbmm(A, A[None], A[None]),
        lambda: torch.nn.functional.bilinear(A, A, torch.ones(3, 4, 4)),
        lambda: torch.cdist(torch.ones(9, 4), torch.ones(9, 4), compute_mode="donot_use_mm_for_euclid_dist"),
        lambda: torch.sparse.mm(A.to_sparse(), A),
        lambda: torch.mkldnn_convolution(IMAGES, torch.ones(4, 4, 3, 3), None, (1, 1), (1, 1), (1, 1), 1),
        lambda: torch.conv_tbc(torch.ones(8, 2, 4), torch.ones(3, 4, 4), torch.zeros(4), 1),
        lambda: torch.ops.aten.slow_conv3d(IMAGES[:, :, None], torch.ones(4, 4, 1, 3, 3), (1, 3, 3)),
        lambda: torch.ops.aten.slow_conv_dilated2d(IMAGES, torch.ones(4, 4, 3, 3), (3, 3)),
        lambda: torch.fft.fft2(IMAGES),
        lambda: torch.linalg.solve(A + torch.eye(4), A),
        lambda: torch.linalg.matrix_exp(A),
        lambda: torch.nn.functional.embedding_bag(torch.zeros(2, 8).long(), A, mode="sum"),
        lambda: torch.nn.functional.grid_sample(IMAGES, torch.zeros(1, 4, 4, 2), align_corners=False),
        lambda: torch.nn.LSTM(4, 4)(A[None]),
    ],
)
def test_what_multiplies_uncounted_is_refused_in_a_race(teacher, operation):
    with (
        Budget(teacher, SHAPE, 10) as budget,
        pytest.raises(ValueError, match="is not counted by the meter; use matrix products"),
    ):
        operation()
    assert budget.evaluations < 1
    with Meter(teacher, SHAPE):
        operation()  # elsewhere it is free


def test_what_is_elementwise_is_free_in_a_race(teacher):
    with Budget(teacher, SHAPE, 10) as budget:
        x = torch.nn.functional.interpolate(IMAGES, scale_factor=2).sin().softmax(1).sort().values.cumsum(0)
        (
            torch.linalg.vector_norm(x),
            torch.nn.functional.avg_pool2d(x, 2),
            torch.nn.functional.group_norm(x, 2),
        )
        torch.nn.functional.embedding(torch.tensor([0]), A), x.std(), torch.outer(A[0], A[0])
    assert budget.evaluations == 0


def test_what_multiplies_no_matrices_is_no_unit():
    with pytest.raises(ValueError, match="so nothing can be counted by it; give a network"):
        Meter(type("Wave", (torch.nn.Module,), {"forward": lambda self, x, s: x.sin()})(), (2,))


# --- the budget ------------------------------------------------------------------------------------


def test_the_loop_ends_before_a_step_that_no_longer_fits(teacher):
    x, seen = torch.zeros(10, *SHAPE), []
    with Budget(teacher, SHAPE, 35) as budget:
        for progress in budget:
            seen.append(progress)
            teacher(x, 1.0)
    assert seen == pytest.approx([0, 10 / 35, 20 / 35])
    assert (budget.evaluations, budget.left) == (30, 5)


def test_catching_what_ends_the_budget_does_not_help(teacher):
    student = cdedu.ConsistencyModel.from_teacher(teacher)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    with Budget(teacher, SHAPE, 20) as budget:
        for _ in range(5):
            try:
                optimizer.zero_grad()
                student(torch.ones(4, *SHAPE), 1.0).square().mean().backward()
                optimizer.step()
            except OutOfBudget as end:
                assert "the budget of 20 evaluations is spent; loop with `for progress in budget:`" in str(
                    end
                )  # noqa: PT017
                spent, weights = budget.evaluations, copy.deepcopy(student.state_dict())
    assert 20 <= budget.evaluations == spent < 20.5
    assert all(torch.equal(weights[key], t) for key, t in student.state_dict().items())


def test_the_limit_cannot_be_moved_and_a_loop_without_networks_ends(teacher):
    budget = Budget(teacher, SHAPE, 10)
    with pytest.raises(AttributeError):
        budget.limit = 20
    with pytest.raises(AttributeError):
        budget.handle().left = 20
    with pytest.raises(ValueError, match="a step of the loop over the budget evaluated no network"), budget:
        for _ in budget:
            pass


# --- what is read ----------------------------------------------------------------------------------


def test_lines_are_those_of_code():
    assert (
        code_lines('"""Doc."""\n\n# comment\nx = [\n    1,\n]\n\n\ndef f():\n    "doc"\n    return x\n') == 5
    )
    for name in METHODS:
        assert code_lines(read_entry(name)[1]) <= 40


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("e.txt", "", "e.txt is no entry; give a file that ends in .py, or one of add, cd, ct"),
        ("e.py", "def train(:\n", "e.py, line 1: it is no Python"),
        ("e.py", "x = 1\n" * 101, f"e.py has 101 lines of code, and an entry {LINES} at most; leave out"),
        (
            "e.py",
            f"x = '{'a' * 20_000}'",
            "e.py has 20,006 bytes, and an entry 20,000 at most; train inside the race",
        ),
        ("e.py", "x = 1\0", "e.py: it is no Python"),
    ],
)
def test_what_is_no_entry_is_said_before_anything_runs(tmp_path, file, text, said):
    (tmp_path / file).write_text(text)
    with pytest.raises(EntryError) as error:
        read_entry(tmp_path / file)
    assert said in str(error.value)


def test_folders_names_and_what_is_missing(tmp_path):
    for name in ("b.py", "a.py", "_helper.py", "note.txt"):
        (tmp_path / name).write_text("")
    assert [Path(p).name for p in found_in([str(tmp_path), "cd"])] == ["a.py", "b.py", "cd"]
    (tmp_path / "empty").mkdir()
    for places, said in (
        ([str(tmp_path / "empty")], "there is no entry in"),
        (["nowhere.py"], "there is no nowhere.py; give a file"),
        ([], "no entry is given"),
    ):
        with pytest.raises(ValueError, match=said):
            found_in(places)


# --- what comes back -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def race():
    protocol = replace(protocol_of(load_data("digits"), n=60, draws=2), first_seed=7)
    with Race(budget=1200, protocol=protocol, seconds=40) as found:
        yield found


def result(student, **changes):
    """What an honest process sends."""
    weights = {key: t.contiguous().clone() for key, t in student.state_dict().items()}
    facts = {key: getattr(student, key, None) for key in ("sigma_data", "sigma_min", "noise_scale", "angle")}
    data = torch.frombuffer(bytearray(save(weights)), dtype=torch.uint8)
    return {"kind": type(student).__name__, "weights": data, "levels": None, **facts, **changes}


def larger(student):
    student.extra = torch.nn.Linear(2, 2)
    return student


def spoiled(student):
    with torch.no_grad():
        next(student.parameters()).view(-1)[0] = torch.nan
    return student


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda s: result(larger(s)),
            "extra.bias has shape (2,) in the student and no such part in the teacher",
        ),
        (lambda s: result(spoiled(s)), "a lower learning rate may help"),
        (
            lambda s: result(s, kind="Tensor"),
            "train returned a Tensor; return a ConsistencyModel, Teacher, FlowMap",
        ),
        (lambda s: result(s, kind=["Teacher"]), "train returned a ['Teacher']; return a"),
        (
            lambda s: result(s, sigma_data=torch.ones(2)),
            "the student's sigma_data is tensor([1., 1.]), the race's 0.5",
        ),
        (lambda s: result(s, kind="__class__"), "train returned a __class__"),
        (lambda s: result(s, weights=torch.zeros(9, dtype=torch.uint8)), "its weights cannot be read"),
        (lambda s: result(s, sigma_min=0.5), "the student's sigma_min is 0.5, the race's 0.002"),
        (lambda s: result(s, levels=[0.8, 80.0]), "the levels are [0.8, 80.0], but they are two, falling"),
        (lambda s: result(s, levels=[90.0, 0.8]), "at most 80 and above 0.002"),
        (lambda s: result(s, levels="80"), "such as (80.0, 0.8)"),
    ],
)
def test_a_student_that_is_none_is_refused_with_place_and_remedy(race, teacher, change, said):
    with pytest.raises(EntryError) as error:
        race.student("e.py", change(cdedu.ConsistencyModel.from_teacher(teacher)))
    assert said in str(error.value) and str(error.value).startswith("e.py: ")


@pytest.mark.parametrize("make", [cdedu.ConsistencyModel.from_teacher, copy.deepcopy, FlowMap.from_teacher])
def test_a_student_comes_back_as_it_was(race, teacher, make):
    sent = make(teacher)
    with torch.no_grad():
        for p in sent.parameters():
            p += 0.01 * torch.randn(p.shape, generator=generator())
    back, levels = race.student("e.py", result(sent))
    assert levels == (80.0, 0.8)
    x = 80 * torch.randn(3, *SHAPE, generator=generator())
    one, two = (walk(m.requires_grad_(False), x, levels, generator(1)) for m in (sent, back))
    assert torch.equal(one, two) and not torch.equal(one, x)


def test_samples_that_are_no_pictures_have_no_distance(race, teacher, monkeypatch):
    student = cdedu.ConsistencyModel.from_teacher(teacher)
    monkeypatch.setattr(student, "forward", lambda x, sigma: x * torch.inf)
    monkeypatch.setattr(
        race, "train", lambda name, source: {"evaluations": 1.0, "seconds": 1.0, "printed": ""}
    )
    monkeypatch.setattr(race, "student", lambda name, found: (student, (80.0, 0.8)))
    with pytest.raises(
        EntryError, match=r"cd.py: its samples cannot be measured \(they hold NaN or infinity\); a lower"
    ):
        race.enter("cd")


# --- entries, in the sandbox -----------------------------------------------------------------------

HONEST = "import cdedu\n\n\ndef train(teacher, data, budget, generator):\n    {}\n    return cdedu.ConsistencyModel.from_teacher(teacher)\n"


def enter(race, folder, text):
    (folder / "mine.py").write_text(text)
    return race.enter(str(folder / "mine.py"))


def test_a_method_of_the_course_gets_a_row(race):
    row = race.enter("cd")
    assert row.name == "cd" and row.lines == code_lines(read_entry("cd")[1])
    assert 384 * 3 == pytest.approx(row.evaluations, rel=1e-3)  # 64 pictures at 6, three times
    assert row.distance["2"]["fd"]["median"] < row.distance["1"]["fd"]["median"]
    assert "| cd |" in table([row]) and table([row]).count("\n") == 2


def test_an_entry_sees_the_training_half_alone_and_cannot_bend_the_ruler(race, tmp_path):
    plain = enter(race, tmp_path, HONEST.format("print(tuple(data.shape), '\\x1b[2J')"))
    assert plain.printed == "(1197, 1, 8, 8) [2J"  # what a terminal would obey is taken out
    bent = "import cdedu.evaluation as e; e.frechet_distance = lambda x, y: 0.0; e.features = None"
    assert enter(race, tmp_path, HONEST.format(bent)).distance == plain.distance
    assert plain.distance["1"]["fd"]["median"] > 500 and plain.evaluations == 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "cdedu.load('digits-student')",
            "line 5, `cdedu.load('digits-student')`: ",
        ),  # trained a hundred times as long
        ("cdedu.load('digits-classifier')", "line 5, "),  # the ruler's own eyes
        ("import cdedu.data; cdedu.data.load_data('digits')", "line 5, "),  # the test half
        ("open(cdedu.__file__.replace('__init__.py', 'weights/hashes.json'))", "line 5, "),
        (
            "import threading; threading.Thread(target=print).start()",
            "start a thread: not allowed in the race",
        ),
        (
            "type(budget).__torch_dispatch__ = lambda s, f, t, a=(), k=None: f(*a, **(k or {}))",
            "`__torch_dispatch__` reaches behind",
        ),
        ("import os; os.fork()", "start another process"),
        (
            "teacher(data, 1.0), teacher(data, 1.0)",
            "the budget of 1,200 evaluations is spent; loop with `for progress in",
        ),
        ("print('loss', 3)\n    1 / 0", "ZeroDivisionError: division by zero (it printed last: loss 3)"),
        (
            "class ConsistencyModel(cdedu.ConsistencyModel):\n        state_dict = None\n    return ConsistencyModel.from_teacher(teacher)",
            "train returned a ConsistencyModel of its own; return a ConsistencyModel, Teacher, FlowMap",
        ),
        ("return data", "train returned a Tensor; return a ConsistencyModel"),
        ("return larger_than(teacher)", "NameError: name 'larger_than' is not defined"),
    ],
)
def test_a_cheat_gets_no_row_and_hears_why(race, tmp_path, line, said):
    with pytest.raises(EntryError) as error:
        enter(race, tmp_path, HONEST.format(line))
    assert said in str(error.value) and str(error.value).startswith("mine.py")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("budget.__exit__(None, None, None)", "__exit__"),
        ("from torch.utils._python_dispatch import _disable_current_modes", "_disable_current_modes"),
        ("torch._C._DisableTorchDispatch()", "_C"),
        ("import torch._C as c", "_C"),
        ("object.__setattr__(budget, 'limit', 1e9)", "__setattr__"),
        ("getattr(budget, '__ex' + 'it__')(None, None, None)", "getattr"),
        ("import sys; sys._getframe(1)", "_getframe"),
        ("from importlib import import_module", "importlib"),
        ("import pkgutil", "pkgutil"),
        ("from timeit import timeit", "timeit"),
        ("from unittest import mock", "mock"),
        ("iter(budget).gi_frame", "gi_frame"),
        ("eval('1')", "eval"),
        ("f = compile", "compile"),
        ("__builtins__", "__builtins__"),
    ],
)
def test_a_name_behind_the_meter_is_refused_before_anything_runs(tmp_path, line, name):
    path = tmp_path / "mine.py"
    path.write_text(HONEST.format(line), encoding="utf-8")
    with pytest.raises(
        EntryError, match=rf"mine.py, line \d+: `{name}` reaches behind what entries are given"
    ):
        read_entry(path)


TRIES = {
    "set the count": (
        "budget.operations = 0",
        "AttributeError: 'Handle' object has no attribute 'operations'",
    ),
    "set the unit": ("budget.unit *= 100", "AttributeError"),
    "set the limit": ("budget.limit = 10**9", "AttributeError"),
    "patch the limit": (
        "from unittest import mock\n    mock.patch.object(budget, '_limit', 1e9).start()",
        "AttributeError",
    ),
    "leave the meter by a stack": (
        "from contextlib import ExitStack\n    e = ExitStack()\n    e.push(budget)\n    e.close()",
        "TypeError: 'Handle' object is not callable",
    ),
    "another count": (
        "from cdedu.evaluation.meter import Meter\n    Meter.evaluations = property(lambda s: 7.0)",
        "the meter no longer counts: the file has changed torch or cdedu; leave both as they are",
    ),
    "another method": (
        "from cdedu.evaluation.meter import Meter\n    Meter.__torch_dispatch__ = lambda s, f, t, a=(), k=None: f(*a, **(k or {}))",
        "the meter no longer counts",
    ),
    "the meter switched off for good": (
        "import torch.utils._python_dispatch as d\n    d.kept = d._disable_current_modes()\n    d.kept.__enter__()",
        "the meter no longer counts",
    ),
    "a table without prices": (
        "import torch.utils.flop_counter as f\n    f.flop_registry.clear()\n    teacher(data, 1.0), teacher(data, 1.0)",
        "the budget of 1,200 evaluations is spent",
    ),
    "inference mode": (
        "import torch\n    with torch.inference_mode():\n        teacher(data, 1.0), teacher(data, 1.0)",
        "the budget of 1,200 evaluations is spent",
    ),
    "an operation of its own": (
        "import torch\n    f = torch.library.custom_op('my::f', lambda x: x @ x, mutates_args=(), schema='(Tensor x) -> Tensor')\n"
        "    f(data[0, 0])",
        "my::f is not counted by the meter; use matrix products (@), convolutions or attention",
    ),
    "threads in native code": (
        "import torch\n    torch.set_num_threads(8)",
        "start a thread: not allowed in the race",
    ),
}
"""Ways past the meter, of entries that got past the names."""


@pytest.mark.parametrize("way", TRIES)
def test_a_meter_that_was_changed_is_found_out_by_itself(race, way):
    line, said = TRIES[way]
    with pytest.raises(EntryError) as error:
        race.train("mine.py", HONEST.format(line))
    assert said in str(error.value)


def test_training_while_the_file_is_read_is_counted(race):
    early = "import torch\n\nx = torch.ones(1500, 1500)\nfor _ in range(9):\n    x @ x\n" + HONEST.format(
        "pass"
    )
    with pytest.raises(EntryError, match="line 5, `x @ x`: the budget of 1,200 evaluations is spent"):
        race.train("mine.py", early)


def test_no_hook_of_a_student_runs(race):
    hooks = "s = cdedu.ConsistencyModel.from_teacher(teacher)\n    s.register_state_dict_pre_hook(lambda *_: 1 / 0)\n    s.state_dict = None\n    return s"
    found = race.train("mine.py", HONEST.format(hooks))
    assert found["kind"] == "ConsistencyModel" and race.student("mine.py", found)


def test_a_traced_function_leaves_the_meter_whole(race):
    lines = "import torch\n    torch.jit.trace(teacher, (data[:2], torch.ones(2)), check_trace=False)\n    print(budget.left)"
    assert 1190 < float(race.train("mine.py", HONEST.format(lines))["printed"].splitlines()[-1]) <= 1198


def test_the_kernel_counts_what_the_meter_does_not_see(race, monkeypatch):
    """Whoever switches the meter off, computes, and switches it on again."""
    monkeypatch.setattr("cdedu.course.race.outside.FREE", 1)
    off = "import time\n    from torch.utils._python_dispatch import _disable_current_modes as off\n    end = time.process_time() + 1.5\n"
    off += "    with off():\n        while time.process_time() < end:\n            teacher(data[:9], 1.0)"
    with pytest.raises(
        EntryError,
        match=r"mine.py: its process computed for [\d.]+ seconds, but its 0 evaluations take 0.0, and",
    ):
        race.train("mine.py", HONEST.format(off))


@pytest.mark.skipif(sys.platform != "linux", reason="the sandbox's limit on processes")
def test_native_code_cannot_fork(race):
    found = race.train("mine.py", HONEST.format("import ctypes\n    print(ctypes.CDLL(None).fork())"))
    assert found["printed"] == "-1"


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGKILL])
def test_what_ends_the_race_ends_its_entries(which):
    """As `timeout` does it, which sends its signal to all at once."""
    code = "from cdedu.course.grading.judge import Judge, Task\nwith Judge(Task(())) as j, j.sandbox() as p: p.request('run', 'x', 'while True: pass', 60, 60)"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (entries := [p for p in below(parent.pid) if os.getsid(p) == p]):
            assert parent.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(0.5)
        everybody = below(parent.pid)
        os.killpg(parent.pid, which)
        parent.wait(10)
        while any(Path(f"/proc/{p}").exists() for p in everybody):
            assert time.monotonic() < deadline, entries
            time.sleep(0.1)
    finally:
        parent.kill()


def below(pid):
    """Processes that it started, and theirs."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [
        q for p in (found.read_text().split() if found.exists() else []) for q in (int(p), *below(int(p)))
    ]


def test_own_names_and_public_ones_are_an_entrys_affair(tmp_path):
    path = tmp_path / "mine.py"
    own = "teacher.eval(), torch.compile\n    _own = 1\n    for _ in range(2): pass\n    class Net(torch.nn.Module):\n        def __init__(self):\n            super().__init__()"
    path.write_text("from __future__ import annotations\n" + HONEST.format(own), encoding="utf-8")
    assert read_entry(path)[0] == "mine.py"
    assert all(read_entry(method) for method in METHODS)


def test_a_file_without_train_and_a_line_that_fails(race, tmp_path):
    with pytest.raises(
        EntryError, match=r"mine.py: there is no function train; write def train\(teacher, data, budget"
    ):
        enter(race, tmp_path, "x = 1\n")
    with pytest.raises(EntryError, match=r"mine.py: line 2, `1 / 0`: ZeroDivisionError"):
        enter(race, tmp_path, "x = 1\n1 / 0\n")


def test_round_the_meter_the_clock_is_the_wall(race, tmp_path, monkeypatch):
    monkeypatch.setattr(race, "seconds", 2)
    endless = HONEST.format(
        "x = data.flatten(1)\n    while True:\n        (x[:, None] * x[None, :50]).sum(2)"
    )
    with pytest.raises(
        EntryError, match="its process ended .after 2 seconds of computing, the most that an entry may use"
    ):
        enter(race, tmp_path, endless)


def test_a_forged_count_is_looked_at(race, monkeypatch):
    said = {"evaluations": 2000.0}
    monkeypatch.setattr(
        "cdedu.course.grading.wire.Peer.request",
        lambda self, what, *_: (
            {"race": lambda *_: said, "seconds_of_one": lambda *_: 1e-3} if what == "answers" else {}
        ),
    )
    with pytest.raises(EntryError, match=r"mine.py: spent 2,000 evaluations of 1,200; stop with the loop"):
        race.train("mine.py", "")
    said["evaluations"] = float("nan")
    with pytest.raises(EntryError, match="evaluations = nan, but it is a number"):
        race.train("mine.py", "")


def test_a_folder_gives_rows_and_reasons_in_a_table(race, tmp_path):
    (tmp_path / "good.py").write_text(HONEST.format("pass"))
    (tmp_path / "bad.py").write_text("")
    rows, refused = run(race, [str(tmp_path)], jobs=2, out=tmp_path / "table.csv")
    assert [row.name for row in rows] == ["good"] and len(refused) == 1
    lines = (tmp_path / "table.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].startswith("entry,fd_1_median,fd_1_min") and lines[1].startswith("good,")
    assert lines[2].startswith("bad,,,") and "there is no function train" in lines[2]


def test_the_example_of_the_page_gets_a_row(race, tmp_path):
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code) == 1
    row = enter(race, tmp_path, code[0])
    assert 0 < row.evaluations <= 1200


# --- the course's methods --------------------------------------------------------------------------


class FirstError(Exception):
    """Ends a training at its first backward pass."""


def first_loss(name, teacher, data, monkeypatch):
    """The first loss that a method's file goes back from, with seed 0."""
    space, seen = {}, []

    def backward(self, *_, **__):
        seen.append(float(self.detach()))
        raise FirstError

    torch.manual_seed(0)
    exec(compile(read_entry(name)[1], name, "exec"), space)  # noqa: S102
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with pytest.raises(FirstError), Budget(teacher, SHAPE, 4000) as budget:
        space["train"](teacher, data, budget.handle(), generator())
    return seen[0]


def expected(name, teacher, data):
    """The same from the package's losses, with what they draw given to them."""
    g = generator()
    f = cdedu.ConsistencyModel.from_teacher(teacher)
    if name in ("ct", "ict"):
        torch.manual_seed(0)
        network = cdedu.recipes.recipes["digits"].network.build(SHAPE)
        f = cdedu.ConsistencyModel(network, 0.5, noise_scale=250.0)
    x0 = data[torch.randint(len(data), (64,), generator=g)]

    def drawn(weights):
        return {"index": draw_steps(weights, 64, g), "noise": torch.randn(x0.shape, generator=g)}

    if name == "cd":
        more = drawn(torch.ones(17))
        return losses.distillation_loss(
            f, f, teacher, x0, karras_sigmas(18), weight=losses.inverse_gap, **more
        )
    if name == "ct":
        return losses.consistency_training_loss(
            f, f, x0, torch.tensor([80, 0.002]), weight=losses.inverse_gap, **drawn(torch.ones(1))
        )
    if name == "ict":
        sigmas = karras_sigmas(11)
        more = drawn(LogNormal(-1.1, 2.0).grid_weights(sigmas))
        return losses.consistency_training_loss(
            f, f, x0, sigmas, weight=losses.inverse_gap, distance=losses.pseudo_huber, **more
        )
    if name == "progressive":
        return progressive_loss(teacher, teacher, x0, karras_sigmas(8), **drawn(torch.ones(4)))
    spread = {"ect": LogNormal(-1.1, 2.0), "scd": LogNormal(-1.0, 1.4)}[name]
    sigma = spread.sample(64, g).clamp(0.002, 80)
    noise = torch.randn(x0.shape, generator=g)
    if name == "ect":
        return losses.easy_consistency_loss(f, f, x0, sigma, noise=noise, q=256)
    return losses.continuous_consistency_loss(f, f, x0, sigma, teacher=teacher, noise=noise, ratio=0.0)


@pytest.mark.parametrize("name", ["cd", "ct", "ict", "ect", "scd", "progressive"])
def test_the_first_loss_of_a_method_is_the_packages(name, teacher, monkeypatch):
    data = load_data("digits").train
    with torch.no_grad():
        want = float(expected(name, teacher, data).mean())
    assert first_loss(name, teacher, data, monkeypatch) == pytest.approx(want, rel=1e-4)


def test_a_method_has_the_rate_that_its_pilots_chose():
    entries = read_record(ROOT / "results" / "race.json")["metrics"]["entries"]
    files = {
        name: float(re.search(r"^RATE = (.+)$", read_entry(name)[1], re.MULTILINE)[1]) for name in METHODS
    }
    assert {name: row["rate"] for name, row in entries.items()} == files


@pytest.mark.parametrize("name", sorted(METHODS) if sys.platform != "win32" else [])
def test_every_method_of_the_course_trains(name, teacher):
    data, space = load_data("digits").train, {}
    exec(compile(read_entry(name)[1], name, "exec"), space)  # noqa: S102
    assert isinstance(space["RATE"], float)
    with Budget(teacher, SHAPE, 1600) as budget:
        found = space["train"](teacher, data, budget.handle(), generator())
    student = found[0] if isinstance(found, tuple) else found
    before = student.state_dict()["network.net.conv_in.weight"]
    assert not torch.equal(before, teacher.network.net.conv_in.weight) and before.isfinite().all()
    assert 500 < budget.evaluations <= 1600


# --- a student with two levels ---------------------------------------------------------------------


def test_a_flow_map_starts_as_its_teacher_and_a_jump_of_no_length_is_none(teacher):
    student, x = FlowMap.from_teacher(teacher), torch.randn(3, *SHAPE, generator=generator())
    with torch.no_grad():
        assert torch.allclose(student.guess(x, 2.0, 0.3), teacher(x, 2.0), atol=1e-6)
        assert torch.equal(student(x, 2.0, 2.0), x)
        assert torch.allclose(student(x, 2.0, 0.3), cdedu.euler_step(teacher, x, 2.0, 0.3), atol=1e-5)


class Exact:
    """g of the exact path of a Gaussian with mean m and deviation d; or one that ignores s."""

    sigma_data = 0.5

    def __init__(self, m, d, ignores=False):
        self.m, self.d, self.ignores = m, d, ignores

    def guess(self, x, sigma, s):
        s = torch.full_like(s, 1e-9) if self.ignores else s
        r, scale = s / sigma, ((s**2 + self.d**2) / (sigma**2 + self.d**2)).sqrt()
        return ((self.m + scale[:, None] * (x - self.m)) - r[:, None] * x) / (1 - r)[:, None]


def test_the_exact_path_is_a_zero_of_mean_flow_and_one_that_ignores_s_is_not():
    m, d = torch.tensor([[0.3, -0.2]]).double(), 0.4
    sigma = torch.logspace(-1, 1.9, 50).double()
    s = sigma * torch.linspace(0.01, 0.9, 50).double()
    x0 = m + d * torch.randn(50, 2, generator=generator()).double()
    noise = torch.randn(50, 2, generator=generator(1)).double()
    exact = cdedu.GaussianMixture(m, d)
    assert mean_flow_loss(Exact(m, d), exact, x0, sigma, s, noise=noise).max() < 1e-12
    assert mean_flow_loss(Exact(m, d, True), exact, x0, sigma, s, noise=noise).max() > 1e-6
    with pytest.raises(ValueError, match="s must not be above sigma"):
        mean_flow_loss(Exact(m, d), exact, x0, sigma, 2 * sigma, noise=noise)


def test_at_s_equal_to_sigma_mean_flow_is_denoising_towards_the_teacher(teacher):
    student, g = FlowMap.from_teacher(teacher), generator()
    x0, sigma, noise = (
        torch.rand(4, *SHAPE, generator=g),
        torch.tensor([0.1, 0.5, 2.0, 9.0]),
        torch.randn(4, *SHAPE, generator=g),
    )
    with torch.no_grad():
        for p in student.parameters():
            p += 0.01 * torch.randn(p.shape, generator=g)
        x = add_noise(x0, sigma, noise)
        want = losses.edm_weight(sigma, 0.5) * losses.l2(student.guess(x, sigma, sigma), teacher(x, sigma))
        assert torch.allclose(
            mean_flow_loss(student, teacher, x0, sigma, sigma, noise=noise), want, rtol=1e-4
        )
