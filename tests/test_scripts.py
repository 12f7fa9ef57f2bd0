"""The scripts behind the numbers: each says what it wants, and at a tiny size runs to records and weights of the known form."""

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import cdedu
from cdedu import checkpoints
from cdedu.data import load_data
from cdedu.evaluation.comparison import Ruler, compare
from cdedu.evaluation.protocol import protocol_of
from cdedu.networks.classifiers import DigitsClassifier
from cdedu.recipes import Network, recipes
from cdedu.records import read_record
from scripts.studies import bench
from scripts.weights import ship

pytestmark = pytest.mark.weekly

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [
    f"scripts.{folder}.{path.stem}"
    for folder in ("studies", "weights")
    for path in sorted((ROOT / "scripts" / folder).glob("*.py"))
    if path.stem not in ("bench", "ship")
]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A copy of the weights, to write into."""
    folder = tmp_path / "weights"
    folder.mkdir()
    for path in checkpoints.WEIGHTS.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "hashes.json").unlink()
    shutil.copyfile(checkpoints.WEIGHTS / "hashes.json", folder / "hashes.json")
    monkeypatch.setattr(checkpoints, "WEIGHTS", folder)
    return folder


def run(monkeypatch, tmp_path, name, *words, **plan):
    """A script with other numbers in its plan, in an empty folder; its module."""
    module = importlib.import_module(name)
    for key, value in plan.items():
        monkeypatch.setattr(module, key, value)
    monkeypatch.setattr(sys, "argv", [module.__file__, *words])
    monkeypatch.chdir(tmp_path)
    module.main()
    return module


def study(monkeypatch, tmp_path, name, record, *words, **plan):
    """A study's record, after a look whether its metrics have the form of the record that the book reads."""
    run(monkeypatch, tmp_path, f"scripts.{name}", *words, "--results", str(tmp_path), **plan)
    made, known = (read_record(folder / f"{record}.json") for folder in (tmp_path, ROOT / "results"))
    assert strange(made["metrics"], known["metrics"]) == []
    words = [name.replace(".", "/") + ".py"]
    assert made["command"].startswith(f"python scripts/{words[0]}") and made.get("settings") != {}
    return made


def strange(made, known, place=""):
    """Where a record has a name that the known one has not, or another kind of value."""
    if isinstance(made, dict) and isinstance(known, dict):
        new = [f"{place}.{key}" for key in made if key not in known]
        return new + [
            s for k in made.keys() & known.keys() for s in strange(made[k], known[k], f"{place}.{k}")
        ]
    if isinstance(made, list) and isinstance(known, list):
        return strange(made[0], known[0], f"{place}[]") if made and known else []
    return [] if isinstance(made, dict | list) == isinstance(known, dict | list) else [place]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_is_for(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as found:
        importlib.import_module(name).main()
    assert found.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_a_part_that_a_study_has_not_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["anatomy.py", "spirals"])
    with pytest.raises(SystemExit):
        bench.arguments("", ("toy", "digits"))
    assert "'spirals' is not known; choose among toy, digits" in capsys.readouterr().err


def test_arms_go_on_and_their_rows_grow(tmp_path, monkeypatch):
    made = []

    def one(arm, seed):
        made.append((arm, seed))
        return {"fd": float(seed), "one": {"kd": 2.0 * seed}}

    monkeypatch.setattr(sys, "argv", ["a", "--results", str(tmp_path)])
    asked = bench.arguments("")
    for seeds in (1, 3):
        bare = bench.Bench("arms", bench.__file__, asked)
        for arm, runs in bare.arms(("a", "b"), seeds, one):
            bare.metrics[arm] = bench.spreads(runs)
    assert made == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    record = read_record(tmp_path / "arms.json")
    assert record["metrics"]["b"]["one"]["kd"] == {"median": 2.0, "min": 0.0, "max": 4.0}
    assert record["command"] == "python scripts/studies/bench.py"


# --- studies -------------------------------------------------------------------------------------


def test_adversarial(monkeypatch, tmp_path):
    plan = {"budget": 128, "batch": 8, "seeds": 1, "looks": 1, "n": 60}
    long = {"modes": {"times": 2, "seeds": 1, "methods": ("cd", "add")}}
    made = study(monkeypatch, tmp_path, "studies.adversarial", "adversarial", "modes", PLANS={"modes": plan}, LONG=long)  # fmt: skip
    known = read_record(ROOT / "results" / "adversarial.json")["metrics"]
    assert made["metrics"].keys() == known.keys() and made["metrics"]["add"].keys() == known["add"].keys()
    arms = ("cd", "add", "game", "blind", "dmd", "cd-long", "add-long")
    assert made["runs"].keys() == {"fixed", *(f"{arm}/0" for arm in arms)}
    assert made["metrics"]["cd-long"]["steps"] == 2 * 128 // (6 * 8)


def test_anatomy(monkeypatch, tmp_path):
    variants = importlib.import_module("scripts.studies.anatomy").TOY
    few = {key: variants[key] for key in ("default", "none", "huber", "random")}
    plan = {
        "BUDGET": {"toy": 3072},
        "SEEDS": {"toy": 1},
        "DRAWS": 1,
        "SAMPLES": {"toy": 100},
        "VARIANTS": {"toy": few},
    }
    made = study(monkeypatch, tmp_path, "studies.anatomy", "anatomy", "toy", **plan)
    row, known = (
        record["metrics"]["toy"]["variants"]["default"]
        for record in (made, read_record(ROOT / "results" / "anatomy.json"))
    )
    assert row.keys() == known.keys() and made["metrics"]["toy"]["variants"].keys() == {*few, "raw", "half"}


def test_a_row_of_the_anatomy_looks_for_its_rate_as_far_as_it_gets_better(monkeypatch):
    module = importlib.import_module("scripts.studies.anatomy")

    def tried(best, fails=()):
        def tuning(variant, rate):
            far = abs(math.log(rate / best))
            return {"failed": "nan"} if rate in fails else {"quality_1": 1 + far, "quality_2": 2 + far}

        runs = {}
        bare = SimpleNamespace(runs=runs, run=lambda key, f: runs.setdefault(key, f()))
        module.tune("toy", "l1", SimpleNamespace(tuning=tuning), bare)
        return [float(key.rpartition("/")[2]) for key in runs], module.chosen("toy", "l1", bare)

    inside, lower, higher = [2e-3, 6e-3, 1.8e-2], [7e-4, 2e-4], [5e-2, 0.15]
    assert tried(6e-3) == (inside, 6e-3)
    assert tried(7e-4) == (inside + lower, 7e-4) and tried(1.3e-3) == (inside + lower[:1], 2e-3)
    assert tried(1.0) == (inside + higher, 0.15)
    assert tried(5e-3, fails=(6e-3,)) == (inside + lower[:1], 2e-3)
    assert tried(6e-3, fails=inside) == (inside, None)
    reported = {
        seed for name in ("standard", "brief") for seed in protocol_of(load_data("two_moons"), name).seeds
    }
    assert module.TUNING_SEED not in reported | {*range(max(module.SEEDS.values()))}


def test_noise_scales(monkeypatch, tmp_path):
    module = importlib.import_module("scripts.studies.noise_scales")
    tasks = [replace(module.TASKS[0], refit=1, budgets=(3584, 7168))]
    monkeypatch.setattr(bench, "protocol_of", lambda data, *_, **__: protocol_of(data, n=60, draws=1))
    made = study(monkeypatch, tmp_path, "studies.noise_scales", "noise-scales", "toy", TASKS=tasks, SEEDS=1)
    known = read_record(ROOT / "results" / "noise-scales.json")["metrics"]["toy"]
    assert made["metrics"]["toy"].keys() == known.keys()
    assert made["metrics"]["toy"]["students"].keys() == known["students"].keys()
    assert {"toy/cd/0/3584", "toy/cd/0/7168", "toy/ct/0/7168"} <= made["runs"].keys()
    assert "toy/ct/0/3584" not in made["runs"]


def test_scratch_or_teacher(monkeypatch, tmp_path):
    module = importlib.import_module("scripts.studies.scratch_or_teacher")
    tuned = module.TASKS[0].tuned | {"ct_huber": {**module.TASKS[0].tuned["ct_huber"], "batch": 64}}
    recipe = module.TASKS[0].recipe
    recipe = replace(
        recipe, teacher=replace(recipe.teacher, steps=2), student=replace(recipe.student, steps=2)
    )
    few = {"budgets": (2048, 4096, 6144), "seeds": 1}
    monkeypatch.setattr(bench, "protocol_of", lambda data, *_, **__: protocol_of(data, n=60, draws=1))
    tasks = [replace(module.TASKS[0], recipe=recipe, tuned=tuned, **few)]
    other = [replace(tasks[0], tuned=module.TASKS[1].tuned)]
    made = study(
        monkeypatch, tmp_path, "studies.scratch_or_teacher", "scratch-or-teacher", "toy", TASKS=tasks
    )
    known = read_record(ROOT / "results" / "scratch-or-teacher.json")["metrics"]["toy"]
    assert made["metrics"]["toy"].keys() == known.keys()
    long = made["metrics"]["toy"]["long"]
    assert long["evaluations"] == [4096, 8192, 12288, 16384] and long["course_evaluations"] == 9216
    assert [part["steps"] for part in long["recipe"]] == [4, 2]
    with pytest.raises(SystemExit, match="other settings"):
        study(monkeypatch, tmp_path, "studies.scratch_or_teacher", "scratch-or-teacher", "toy", TASKS=other)


@pytest.mark.skipif(sys.platform == "win32", reason="the race forks")
def test_race(monkeypatch, tmp_path):
    methods = {"cd": importlib.import_module("cdedu.course.race").METHODS["cd"]}
    pilot = {"budget": 400, "training_seed": 100, "protocol": "tuning", "draws": 1}
    plan = {"METHODS": methods, "BUDGET": 800, "PILOT": pilot, "TIMES": (1.0,), "TRIES": 1, "SEEDS": 1}
    row = study(monkeypatch, tmp_path, "studies.race", "race", **plan)["metrics"]["entries"]["cd"]
    assert row["evaluations"]["median"] == pytest.approx(768, rel=1e-3) and row["rate"] == 6e-4


def test_tradeoffs(monkeypatch, tmp_path):
    few = {"ddpm": (1, 2), "ddim": (2,), "dpm_solver": (2,), "heun": (3,)}
    plan = {
        "CALLS": few, "PAIRED": ("heun/3", "student/1"), "TRAINING_SEEDS": 1,
        "ROUND": {"steps": 1, "batch": 8, "lr": 8e-4, "ema": 0.98, "first": 16}, "BUDGET": 32, "STUDENT_CALLS": (1, 2),
        "CT": {"batch": 8, "lr": 2e-3, "points": 41}, "timing": lambda: {},
    }  # fmt: skip
    monkeypatch.setattr(bench, "protocol_of", lambda data, *_, **__: protocol_of(data, n=60, draws=1))
    made = study(monkeypatch, tmp_path, "studies.tradeoffs", "tradeoffs", **plan)["metrics"]
    known = read_record(ROOT / "results" / "tradeoffs.json")["metrics"]
    assert made.keys() == known.keys() and made["digits"].keys() == known["digits"].keys()
    assert (
        made["digits"]["progressive"]["samplers"].keys() == known["digits"]["progressive"]["samplers"].keys()
    )


def test_fair(monkeypatch, tmp_path):
    def few(data, name="standard", **_):
        return protocol_of(data, name, n=20, draws=1)

    module = importlib.import_module("scripts.studies.fair")
    monkeypatch.setattr(bench, "protocol_of", few)
    monkeypatch.setattr(
        module, "Ruler", lambda data, protocol=None: Ruler(data, protocol=protocol or few(data))
    )
    plan = {"EVALUATIONS": (1, 3), "STUDENT": (1,), "BUDGET": 6, "protocol_of": few}
    made = study(monkeypatch, tmp_path, "studies.fair", "fair", "toy", **plan)["metrics"]["toy"]
    known = read_record(ROOT / "results" / "fair.json")["metrics"]["toy"]
    assert made.keys() == known.keys() and made["ddim"]["3"].keys() == known["ddim"]["3"].keys()
    assert made["ddim"]["3"]["tuned"].keys() == known["ddim"]["3"]["tuned"].keys()
    walks = {s: made[s]["3"]["tuned"]["sw"]["median"] for s in ("ddim", "dpm_solver", "heun")}
    assert made["best"]["3"] == {"sampler": min(walks, key=walks.get), "distance": min(walks.values())}
    mine = made["consistency"]["1"]["tuned"]["sw"]["median"]
    assert made["ratio"]["1"]["3"] == min(walks.values()) / mine
    assert made["worth"]["1"] in (None, 1, 3)


def test_latent(monkeypatch, tmp_path):
    plan = {
        "FLOOR": {"steps": 1, "channels": [2]}, "SPACES": {"steps": 1, "points": [18], "lr": 2e-3}, "SEEDS": 1, "BATCH": 8,
        "SCALES": (1.0,), "STEPS": (1,), "SKIP": {"steps": 1, "lr": 2e-3}, "ARMS": {"k = 1": [18, 1]}, "Ruler": partial(Ruler, n=20),
    }  # fmt: skip
    made = study(monkeypatch, tmp_path, "studies.latent", "latent", "floor", "spaces", "skip", **plan)
    assert made["metrics"].keys() >= {
        "seeds",
        "budget",
        "teacher",
        "spaces",
        "real",
        "floor",
        "shipped",
        "skip",
    }


def test_points_leave_a_student_among_the_weights(monkeypatch, tmp_path, weights):
    plan = {"points3d": {"steps": 1, "batch": 4, "seeds": 1, "n": 12}}
    before = cdedu.load("points-student").state_dict()
    made = study(monkeypatch, tmp_path, "studies.video", "points3d", "points", PLANS=plan)
    assert made["metrics"].keys() == read_record(ROOT / "results" / "points3d.json")["metrics"].keys()
    student = cdedu.load("points-student")
    assert student.header.step == 1 and not all(t.equal(before[k]) for k, t in student.state_dict().items())


# --- weights -------------------------------------------------------------------------------------


def tiny(monkeypatch, name, **changes):
    """A recipe with steps of next to nothing."""
    recipe = recipes[name]
    teacher, student = replace(recipe.teacher, steps=2, batch=8), replace(recipe.student, steps=2, batch=8)
    monkeypatch.setitem(recipes, name, replace(recipe, teacher=teacher, student=student, **changes))


def test_reproduce_leaves_an_installation_that_works(monkeypatch, tmp_path, weights, capsys):
    tiny(monkeypatch, "toy")
    before = json.loads((weights / "hashes.json").read_text())
    plan = {"RESULTS": tmp_path, "compare": partial(compare, seeds=1, samples=50)}
    run(monkeypatch, tmp_path, "scripts.weights.reproduce", "toy", **plan)
    after = json.loads((weights / "hashes.json").read_text())
    assert {name for name in after if after[name] != before[name]} == {"toy-teacher", "toy-student"}
    teacher, student = cdedu.load("toy-teacher"), cdedu.load("toy-student")
    assert teacher.header.step == student.header.step == 2
    record, known = read_record(tmp_path / "toy.json"), read_record(ROOT / "results" / "toy.json")
    assert record.keys() == known.keys() and strange(record["metrics"], known["metrics"]) == []
    assert record["weights"] == {role: after[f"toy-{role}"] for role in ("teacher", "student")}
    assert record["command"] == "python scripts/weights/reproduce.py toy"
    run(monkeypatch, tmp_path, "scripts.weights.reproduce", "toy", "--evaluate", **plan)
    assert read_record(tmp_path / "toy.json")["weights"] == record["weights"]
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, "scripts.weights.reproduce", "modes")
    assert "made by scripts/weights/modes.py" in capsys.readouterr().err


def test_latent_weights(monkeypatch, tmp_path, weights):
    module = importlib.import_module("scripts.weights.latent")
    tiny(monkeypatch, "labelled-digits")
    latent = replace(recipes["labelled-digits"], name="latent-digits", data="latent-digits")
    plan = {"AUTOENCODER": {"steps": 2, "kl": 1e-3, "seed": 0}, "STUDENT": {**module.STUDENT, "steps": 2}}
    plan |= {"Ruler": partial(Ruler, n=20), "measure": partial(module.measure, seeds=1)}
    made = study(monkeypatch, tmp_path, "weights.latent", "latent-training", LATENT_DIGITS=latent, **plan)
    known = read_record(ROOT / "results" / "latent-training.json")["metrics"]
    assert all(made["metrics"][part].keys() == known[part].keys() for part in known)
    student = cdedu.load("latent-digits-student")
    assert student.header.guidance == (1.0, 4.0) and student.header.labels == 10
    x, labels = torch.randn(2, 2, 4, 4), torch.tensor([1, 2])
    assert cdedu.sample_consistency(student, 80 * x, labels=labels, guidance=2.0).shape == x.shape
    assert cdedu.load("labelled-digits-teacher").header.recipe.teacher.steps == 2


def test_captioned_weights(monkeypatch, tmp_path, weights):
    """At a tiny size; started again with another length, a stage says so instead of going on."""
    pytest.importorskip("transformers")
    module = importlib.import_module("scripts.weights.captioned")
    short = {"steps": 2, "batch": 4}
    tiny = {part: {**module.SETTINGS[part], **short} for part in ("referee", "autoencoder", "teacher")}
    tiny["canvases"] = {"train": 200, "seed": 0, "test": 80, "test_seed": 1}
    tiny["measure"] = {"each": 1, "guidance": [1.0, 4.0], "steps": [2], "seed": 3}
    plan = {"FOLDER": "tiny-teacher", "SETTINGS": tiny}
    words = ("--state", str(tmp_path / "state"))
    run(monkeypatch, tmp_path, "scripts.weights.captioned", *words, "--results", str(tmp_path), **plan)
    made = read_record(tmp_path / "captioned.json")
    assert made["metrics"]["training"]["teacher"]["loss"] > 0
    assert "tiny-teacher/unet/diffusion_pytorch_model.safetensors" in made["weights"]
    tiny["autoencoder"]["steps"] = 3
    with pytest.raises(ValueError, match=r"autoencoder\.safetensors was made by the plan .*; take that one"):
        run(
            monkeypatch,
            tmp_path,
            "scripts.weights.captioned",
            *words,
            "--results",
            str(tmp_path / "b"),
            **plan,
        )


def test_the_other_weights(monkeypatch, tmp_path, weights):
    for kind in ("frames", "points"):
        tiny(monkeypatch, kind)
    run(monkeypatch, tmp_path, "scripts.weights.video", "frames", "points")
    assert cdedu.load("frames-teacher").header.step == cdedu.load("points-teacher").header.step == 2
    run(monkeypatch, tmp_path, "scripts.weights.modes", "--results", str(tmp_path), STEPS=10)
    known = read_record(ROOT / "results" / "modes-teacher.json")["metrics"]
    assert read_record(tmp_path / "modes-teacher.json")["metrics"].keys() == known.keys()
    cdedu.load("modes-teacher")
    few = {"steps": 3, "batch": 8, "lr": 1e-3, "seed": 0}
    run(monkeypatch, tmp_path, "scripts.weights.classifiers", "digits", RESULTS=tmp_path, DIGITS=few)
    metrics = read_record(tmp_path / "digits-classifier.json")["metrics"]
    assert metrics["steps"] == 3 and 0 <= metrics["test_accuracy"] < 1
    assert cdedu.load("digits-classifier").header.facts["accuracy"] == metrics["test_accuracy"]


def test_shipped_weights_are_stored_in_half_precision_where_asked(weights):
    model = DigitsClassifier()
    kept = ship.ship("a", model, None, (1, 8, 8), half=True, accuracy=0.5)
    stored = checkpoints.read_tensors(weights / "a.safetensors")[0]
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    assert next(kept.parameters()).dtype == next(model.parameters()).dtype == torch.float32
    assert json.loads((weights / "hashes.json").read_text())["a"] == checkpoints.sha256(
        weights / "a.safetensors"
    )


def test_a_classifier_of_pictures_is_made_of_a_folder(monkeypatch, tmp_path, weights):
    module = importlib.import_module("scripts.weights.classifiers")
    x = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    data = cdedu.data.Dataset("noise", x, x[:20], torch.arange(40) % 10, torch.arange(20) % 10)
    monkeypatch.setattr(module, "load_data", lambda *_: data)
    monkeypatch.setattr(module, "BATCH", 20)
    name, build, setting = module.CIFAR["referee"]
    rows = {"referee": (name, build, replace(setting, epochs=1))}
    words = ("referee", "--data", str(tmp_path / "train.zip"))
    run(monkeypatch, tmp_path, "scripts.weights.classifiers", *words, RESULTS=tmp_path, CIFAR=rows)
    record = read_record(tmp_path / f"{name}.json")
    assert record["command"] == "python scripts/weights/classifiers.py referee --data train.zip"
    assert record["setting"]["epochs"] == 1 and cdedu.load(name).header.facts["data"] == "noise"


def test_a_small_network_is_trained_and_measured(monkeypatch, tmp_path):
    module = importlib.import_module("scripts.studies.cifar_networks")
    x = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8)
    data = cdedu.data.Dataset("cifar10-jpeg", x, x[:20], torch.arange(40) % 10, torch.arange(20) % 10)
    monkeypatch.setattr(module, "load_data", lambda *_: data)
    stage = replace(module.STAGE, batch=4)
    recipe = replace(module.RECIPE, network=Network(classes=11), teacher=stage)
    plan = {"CANDIDATES": {"flat 16,64,128": (1, (16, 64, 128))}, "SAMPLES": 10, "POINTS": 2, "STAGE": stage}
    words = ("--data", "a.zip", "--seconds", "0.01", "--only", "flat 16,64,128")
    made = study(
        monkeypatch, tmp_path, "studies.cifar_networks", "cifar10-networks", *words, RECIPE=recipe, **plan
    )
    known = read_record(ROOT / "results" / "cifar10-networks.json")["runs"]["flat 16,64,128"]
    assert made["runs"]["flat 16,64,128"].keys() == known.keys()


def test_every_script_is_in_the_index_and_every_one_named_exists():
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "scripts").rglob("*") if path.is_file()}
    files = {name for name in files if name.endswith((".py", ".sh"))}
    index = set(re.findall(r"scripts/\w+/\w+\.(?:py|sh)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert files == index, files ^ index
    pages = [
        *(ROOT / "book").rglob("*.md"),
        *(ROOT / "book").rglob("[0-9]*.ipynb"),
        ROOT / "README.md",
        ROOT / "Makefile",
    ]
    named = {
        n for p in pages for n in re.findall(r"scripts/[\w/]+\.(?:py|sh)", p.read_text(encoding="utf-8"))
    }
    assert named <= files, named - files


def test_runs_that_are_killed_end_as_those_that_are_not():
    """A few of the kills; and each option says what it is."""
    script = [sys.executable, str(ROOT / "scripts" / "bench" / "kills.py")]
    options = {"capture_output": True, "text": True, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    done = subprocess.run([*script, "--kills", "9"], **options)
    assert done.returncode == 0 and done.stdout.startswith("9 kills (") and "0 losses" in done.stdout
    assert all(f"of {name}" in done.stdout for name in ("train", "distill", "export"))
    said = subprocess.run([*script, "--help"], **options).stdout
    assert "how often to kill" in said and "of what is killed, and when" in said
