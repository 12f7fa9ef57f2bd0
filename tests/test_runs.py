"""Runs from the outside: pictures, curves, how often they are saved, a full disk."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdedu import checkpoints, runs
from cdedu.data import Dataset
from cdedu.networks import MLP
from cdedu.recipes import Network, Recipe, StudentStage, TeacherStage
from cdedu.runs import Run, generate, writable
from cdedu.runtime import Runtime
from cdedu.student import ConsistencyModel
from cdedu.teacher import Teacher
from cdedu.training import distill, train_teacher

X = 0.5 * torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
DATA = Dataset("points", X[:40], X[40:])
RECIPE = Recipe(
    "tiny", "points", Network(width=8, depth=1), TeacherStage(steps=6, batch=8), StudentStage(steps=6, batch=8, points=5),
)  # fmt: skip


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(RECIPE, "teacher", DATA, tmp_path / "run", tmp_path / "results", Runtime())


def states(recipe: Recipe = RECIPE):
    return train_teacher(recipe, DATA)


def test_a_run_leaves_weights_a_state_and_a_record_of_all_that_it_depends_on(run, capsys):
    run.facts["why"] = "a test"
    run.drive(states())
    (path,) = run.results.iterdir()
    record = json.loads(path.read_text())
    assert str(path) in capsys.readouterr().out
    assert (
        record["runtime"] == Runtime().describe()
        and record["why"] == "a test"
        and record["resumed_at"] is None
    )
    assert record["weights"] == {"file": str(run.path), "sha256": checkpoints.sha256(run.path)}
    metrics = record["metrics"]
    assert metrics["steps"] == 6 and math.isfinite(metrics["loss"]) and metrics["peak_gpu_memory_mb"] is None
    assert metrics["images_per_second"] == pytest.approx(8 * metrics["steps_per_second"])
    assert checkpoints.load(run.path).header.facts["why"] == "a test"
    assert checkpoints.load_state(run.state_path, RECIPE, "teacher")[1] == 6


@pytest.mark.parametrize("other", ["", "{", '{"weights": {"sha256": "of another run"}}'])
def test_a_run_that_was_killed_after_its_record_leaves_one(run, monkeypatch, other):
    """Resumed, it ends with the same weights; the records of others stay."""
    run.results.mkdir()
    (kept := run.results / "tiny-teacher-of-others.json").write_text(other)
    half = next(s for s in states() if s.step == 4)
    resumed = replace(run, resume=({name: t.clone() for name, t in half.tensors().items()}, 4))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run.drive(states())
    (first,) = {*run.results.iterdir()} - {kept}
    resumed.drive(train_teacher(RECIPE, DATA, resume=resumed.resume))
    (second,) = {*run.results.iterdir()} - {kept}
    assert second != first and json.loads(second.read_text())["resumed_at"] == 4
    assert kept.read_text() == other


def test_speed_counts_the_steps_since_the_resumption(run, monkeypatch):
    """A run that is resumed for its last two steps has not made six in that time."""
    half = next(s for s in states() if s.step == 4)
    run = replace(run, resume=({name: t.clone() for name, t in half.tensors().items()}, 4))
    clock = [0.0]
    monkeypatch.setattr(runs.time, "perf_counter", lambda: clock[0])

    def ticking():
        for state in train_teacher(RECIPE, DATA, resume=run.resume):
            clock[0] += 0.5
            yield state

    run.drive(ticking())
    (path,) = run.results.iterdir()
    metrics = json.loads(path.read_text())["metrics"]
    assert (
        metrics["steps"] == 6 and metrics["steps_per_second"] == 2.0 and metrics["images_per_second"] == 16.0
    )


def test_pictures_are_made_along_the_way_and_change_nothing(run, tmp_path):
    plain = Run(RECIPE, "teacher", DATA, tmp_path / "plain", tmp_path / "results", Runtime())
    plain.drive(states())
    run = replace(run, picture_every=3)
    run.drive(states())
    assert sorted(p.name for p in run.folder.glob("*.png")) == ["teacher-0000003.png", "teacher-0000006.png"]
    assert run.state_path.read_bytes() == plain.state_path.read_bytes()


def test_a_picture_of_the_student_is_one_step(run, monkeypatch):
    asked = []
    function = runs.generate
    monkeypatch.setattr(runs, "generate", lambda *a: (asked.append(a[3]), function(*a))[1])
    run = replace(run, role="student", picture_every=6)
    run.drive(distill(RECIPE, Teacher(MLP(2, 8, 1)), DATA))
    assert asked == [1] and (run.folder / "student-0000006.png").is_file()


def test_curves_for_tensorboard(run):
    run = replace(run, log="tensorboard")
    run.drive(states(replace(RECIPE, teacher=replace(RECIPE.teacher, steps=200))))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(run.folder / "tensorboard" / "tiny-teacher"))
    curves.Reload()
    assert [e.step for e in curves.Scalars("loss")] == [100, 200]
    assert all(e.value > 0 for e in curves.Scalars("images per second"))


def test_without_tensorboard_nothing_is_begun(run, monkeypatch):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(ValueError, match="--log tensorboard needs the package tensorboard: pip install"):
        replace(run, log="tensorboard").drive(iter([None]))  # type: ignore[list-item]


def test_another_tracker_is_told_the_recipe_and_the_curves_and_ends_with_the_run(run, monkeypatch):
    from accelerate import tracking

    told = []

    class Tracker(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "wandb", False, None

        def __init__(self, name):
            told.append(name)

        def store_init_configuration(self, values):
            told.append(values["teacher"]["batch"])

        def log(self, values, step):
            told.append((sorted(values), step))

        def finish(self):
            told.append("end")

    monkeypatch.setattr(tracking, "_available_trackers", ["wandb"])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Tracker)
    replace(run, log="wandb").drive(states(replace(RECIPE, teacher=replace(RECIPE.teacher, steps=200))))
    curves = ["images per second", "loss"]
    assert told == ["tiny-teacher", 8, (curves, 100), (curves, 200), "end"]


def test_saving_takes_a_small_share_of_the_time(run, monkeypatch):
    """A save of 10 s is followed by the next after 200 s, not after the usual 30."""
    clock, saved = [0.0], []
    monkeypatch.setattr(runs.time, "perf_counter", lambda: clock[0])

    def save_state(path, state, **facts):
        saved.append(clock[0])
        clock[0] += 10

    def ticking():
        for state in states(replace(RECIPE, teacher=replace(RECIPE.teacher, steps=50))):
            clock[0] += 9
            yield state

    monkeypatch.setattr(checkpoints, "save_state", save_state)
    run.drive(ticking())
    first, second, *_ = saved
    assert first == 36 and 200 <= second - (first + 10) < 210


def test_a_full_disk_is_an_error_of_one_line_and_the_previous_state_stays_whole(run):
    run.drive(states())
    before = {p: p.read_bytes() for p in run.folder.glob("[!.]*")}

    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write .*teacher\.safetensors: .*File too large"):
            run.drive(states())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {p: p.read_bytes() for p in run.folder.glob("[!.]*")} == before


def test_weights_that_are_no_numbers_never_replace_a_state(run, monkeypatch):
    """Between two looks at the loss a GPU may train on with NaN; the state on disk stays the last good one."""
    monkeypatch.setattr(runs, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(runs, "SAVING_SHARE", math.inf)

    def spoiled():
        for state in states():
            if state.step == 4:
                next(state.model.parameters()).data.fill_(math.nan)
            yield state

    with pytest.raises(FloatingPointError, match="not finite after step 4 of 6"):
        run.drive(spoiled())
    assert checkpoints.load_state(run.state_path, RECIPE, "teacher")[1] == 3
    assert checkpoints.load_state(run.previous_path, RECIPE, "teacher")[1] == 2
    assert not run.path.exists()


def test_the_state_before_is_kept_on_a_disk_without_links_too(run, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(runs, "SAVING_SHARE", math.inf)
    monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(OSError("not supported")))
    run.drive(states())
    assert checkpoints.load_state(run.previous_path, RECIPE, "teacher")[1] == 5


def test_what_a_model_has_seen_counts_the_images_before_a_warm_restart(run):
    run.facts["warm_restart"] = {"images": 1000}
    run.drive(states())
    assert checkpoints.load(run.path).header.images == 1000 + 6 * 8
    assert checkpoints.read_header(run.state_path)["images"] == 1000 + 6 * 8


def test_samples_of_teacher_and_student_have_the_shape_asked_for():
    for model, steps in ((Teacher(MLP(2, 8, 1)), 3), (ConsistencyModel(MLP(2, 8, 1)), 2)):
        x = generate(model, RECIPE, (2,), steps, 5, seed=1)
        assert x.shape == (5, 2) and x.isfinite().all()
        assert x.equal(generate(model, RECIPE, (2,), steps, 5, seed=1))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file/x: Not a directory; choose another folder"):
        writable(tmp_path / "file" / "x")
    writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_two_runs_never_share_a_folder_and_a_dead_one_leaves_no_lock(run, tmp_path):
    """The lock is the operating system's, which lets go of it when a process ends, however it ends."""
    holder = "import sys, time\nfrom cdedu.runs import alone\nfrom pathlib import Path\nwith alone(Path(sys.argv[1])):\n    print(flush=True)\n    time.sleep(600)"
    command = [sys.executable, "-c", holder, run.folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(
            BlockingIOError, match=r"another run is at work in .*run; .*another folder with --out"
        ):
            run.drive(states())
        assert not [*run.folder.glob("[!.]*")]
        process.kill()
    left = run.folder / f".teacher.state.safetensors.{process.pid}.tmp"
    left.touch()
    run.drive(states())
    assert run.path.is_file() and not left.exists(), "what a killed run left half-written is gone"
