"""The page "In the wild": its code fits the diffusers that is installed, loads what its tables link, and its sums are right."""

import ast
import re
from functools import cache
from importlib.metadata import version
from pathlib import Path

import diffusers
import pytest
from conftest import ROOT

PAGE = (ROOT / "book" / "reference" / "wild.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SOURCES = Path(diffusers.__file__).parent
CLOCK = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Stable Diffusion's."""

old = int(version("diffusers").split(".")[1]) < 42 and version("diffusers").startswith("0.")
pytestmark = pytest.mark.skipif(old, reason="the page is for diffusers 0.42")


@cache
def places() -> dict[str, Path]:
    """Where each pipeline and scheduler is written."""
    paths = [*SOURCES.glob("pipelines/**/*.py"), *SOURCES.glob("schedulers/*.py")]
    return {
        name: path
        for path in paths
        for name in re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


@cache
def definition(name: str) -> ast.ClassDef:
    """A class of diffusers as it is written: without transformers its pipelines cannot be imported."""
    body = ast.parse(places()[name].read_text(encoding="utf-8")).body
    return next(n for n in body if isinstance(n, ast.ClassDef) and n.name == name)


def arguments(name: str, method: str) -> set[str]:
    found = next(n for n in definition(name).body if isinstance(n, ast.FunctionDef) and n.name == method)
    return {a.arg for a in found.args.args + found.args.kwonlyargs}


@cache
def documented(function: str) -> set[str]:
    """The keywords of a method that takes any, from its docstring."""
    for path in ("pipelines/pipeline_utils.py", "loaders/lora_pipeline.py"):
        for node in ast.walk(ast.parse((SOURCES / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name == function:
                words = {a.arg for a in node.args.args + node.args.kwonlyargs}
                return words | set(re.findall(r"^\s*(\w+) \(`", ast.get_docstring(node) or "", re.MULTILINE))
    raise AssertionError(f"no {function} in diffusers")


def calls(block: str):
    """Every call of a block: the name that is called, its keywords, and the class that `pipe` has there."""
    pipe = None
    for statement in ast.parse(block).body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Pipeline.from_pretrained"):
                pipe = ast.unparse(node.func).split(".")[0]
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func), {k.arg for k in node.keywords}, pipe


@pytest.mark.parametrize("block", BLOCKS)
def test_its_code_fits_diffusers(block):
    names = [a.name for n in ast.parse(block).body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert names and all(hasattr(diffusers, name) for name in names)
    asked = 0
    for name, keywords, pipe in calls(block):
        if name == "pipe":
            known, asked = arguments(pipe, "__call__"), asked + 1
        elif name.endswith("Pipeline.from_pretrained"):
            known = documented("from_pretrained") | arguments(pipe, "__init__") | {"dtype"}
        elif name.endswith("Scheduler.from_config") or name.endswith("Scheduler"):
            known = arguments(name.split(".")[0], "__init__")
        elif name == "pipe.load_lora_weights":
            known = documented("load_lora_weights") | {"weight_name"}
        else:
            known = set()
        assert keywords <= known, f"{name} takes no {keywords - known}"
    assert asked, "a block that draws nothing"


def test_what_its_code_loads_is_linked():
    loaded = {
        node.value
        for block in BLOCKS
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Constant) and re.fullmatch(r"[\w.-]+/[\w.-]+", str(node.value))
    }
    bases = {"stabilityai/stable-diffusion-xl-base-1.0", "Qwen/Qwen-Image"}
    assert len(loaded) > 6
    assert not [one for one in loaded - bases if f"https://huggingface.co/{one}" not in PAGE]


def test_pipelines_that_it_names_exist():
    for name in sorted(set(re.findall(r"`(\w+(?:Pipeline|Scheduler))`", PAGE))):
        assert hasattr(diffusers, name) and name in places()


def test_times_that_it_names():
    lcm = diffusers.LCMScheduler(**CLOCK)
    lcm.set_timesteps(4)
    assert f"{', '.join(map(str, lcm.timesteps.tolist()))}, as in chapter 14" in PAGE
    lcm.set_timesteps(timesteps=[999, 749, 499, 249])
    assert lcm.timesteps.tolist() == [999, 749, 499, 249]
    for spacing, start in (("trailing", 999), ("leading", 751)):
        euler = diffusers.EulerDiscreteScheduler(**CLOCK, timestep_spacing=spacing, steps_offset=1)
        euler.set_timesteps(4)
        assert euler.timesteps[0] == start and str(start) in PAGE


@pytest.mark.parametrize(
    "name, off",
    [
        ("StableDiffusionPipeline", 1),
        ("StableDiffusionXLPipeline", 1),
        ("StableDiffusion3Pipeline", 1),
        ("ErnieImagePipeline", 1),
        ("ZImagePipeline", 0),
        ("Krea2Pipeline", 0),
    ],
)
def test_where_guidance_begins(name, off):
    rule = next(
        n
        for n in definition(name).body
        if isinstance(n, ast.FunctionDef) and n.name == "do_classifier_free_guidance"
    )
    assert re.search(rf"guidance_scale > {off}\b", ast.unparse(rule))


def test_memory_is_two_bytes_a_parameter():
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) B \| ([\d.]+) GB \|", PAGE, re.MULTILINE)
    assert len(rows) > 10
    assert all(float(gigabytes) == pytest.approx(2 * float(billions)) for billions, gigabytes in rows)


def test_every_row_says_where_it_was_read():
    tables = re.findall(r"^\| model, source .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    rows = [row for table in tables for row in table.splitlines()]
    assert len(tables) == 7 and len(rows) > 25
    bare = [row for row in rows if "](" not in row.split("|")[1] and "][" not in row.split("|")[1]]
    assert not bare
