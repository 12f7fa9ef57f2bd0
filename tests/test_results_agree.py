"""One ruler: a quantity that two records or two pages give, of the same model by the same protocol, is one number."""

import copy
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import book_results as results
import nbformat
import pytest

from cdedu.files import sha256

ROOT = Path(__file__).resolve().parents[1]
RECORDS = {p.name: json.loads(p.read_text(encoding="utf-8")) for p in (ROOT / "results").glob("*.json")}
HASHES = json.loads((ROOT / "cdedu" / "weights" / "hashes.json").read_text(encoding="utf-8"))
WEIGHTS = ROOT / "cdedu" / "weights"
PIPELINES = {path.parent.parent.name: path for path in WEIGHTS.glob("*/unet/*.safetensors")}
HASHES |= {str(path.relative_to(WEIGHTS)): sha256(path) for path in WEIGHTS.rglob("*") if path.is_file()}
HASHES |= {name: sha256(path) for name, path in PIPELINES.items()}
PLACES = {
    ("digits", "real against real, fd"): (
        "digits.json:metrics.floor.fd", "tradeoffs.json:metrics.digits.floor.fd", "fair.json:metrics.digits.floor.fd",
        "anatomy-digits.json:metrics.digits.floor", "noise-scales.json:metrics.digits.floor.fd", "any-teacher.json:metrics.floor.fd",
    ),
    ("digits", "teacher, Heun 35, fd"): (
        "digits.json:metrics.samplers.teacher_heun_35.fd", "tradeoffs.json:metrics.digits.samplers.heun/35.fd",
        "fair.json:metrics.digits.heun.35.untuned.fd", "anatomy-digits.json:metrics.digits.teacher",
        "noise-scales.json:metrics.digits.course_teacher.fd",
    ),
    ("digits", "teacher, DDIM 10, fd"): (
        "digits.json:metrics.samplers.teacher_ddim_10.fd", "tradeoffs.json:metrics.digits.samplers.ddim/10.fd",
        "fair.json:metrics.digits.ddim.10.untuned.fd",
    ),
    ("digits", "teacher, DDIM 2, fd"): (
        "digits.json:metrics.samplers.teacher_ddim_2.fd", "tradeoffs.json:metrics.digits.samplers.ddim/2.fd",
        "fair.json:metrics.digits.ddim.2.untuned.fd",
    ),
    ("digits", "student in 1, fd"): (
        "digits.json:metrics.samplers.student_1.fd", "tradeoffs.json:metrics.digits.samplers.student/1.fd",
        "fair.json:metrics.digits.consistency.1.untuned.fd",
    ),
    ("digits", "student in 2, fd"): (
        "digits.json:metrics.samplers.student_2.fd", "tradeoffs.json:metrics.digits.samplers.student/2.fd",
        "fair.json:metrics.digits.consistency.2.untuned.fd",
    ),
    ("toy", "real against real, sw"): (
        "toy.json:metrics.floor.sw", "tradeoffs.json:metrics.toy.floor.sw", "fair.json:metrics.toy.floor.sw",
        "anatomy.json:metrics.toy.floor", "noise-scales.json:metrics.toy.floor.sw", "scratch-or-teacher.json:metrics.toy.floor",
    ),
    ("toy", "teacher, Heun 35, sw"): (
        "toy.json:metrics.samplers.teacher_heun_35.sw",
        "tradeoffs.json:metrics.toy.samplers.heun/35.sw", "fair.json:metrics.toy.heun.35.untuned.sw", "anatomy.json:metrics.toy.teacher",
        "noise-scales.json:metrics.toy.course_teacher.sw", "scratch-or-teacher.json:metrics.toy.teacher",
    ),
    ("toy", "teacher, DDIM 2, sw"): (
        "toy.json:metrics.samplers.teacher_ddim_2.sw",
        "tradeoffs.json:metrics.toy.samplers.ddim/2.sw", "fair.json:metrics.toy.ddim.2.untuned.sw",
    ),
    ("toy", "student in 1, sw"): (
        "toy.json:metrics.samplers.student_1.sw",
        "tradeoffs.json:metrics.toy.samplers.student/1.sw", "fair.json:metrics.toy.consistency.1.untuned.sw",
    ),
}  # fmt: skip
"""(recipe, quantity) → where it stands; the protocol is the record's for that recipe."""
WORDS = {"floor", "teacher", "course_teacher", "teacher_heun_35", "heun/35"}
"""Keys under which a record holds one of these quantities."""
PAGES = (
    "02_paths", "03_teacher_student", "04_consistency", "05_scratch_or_teacher", "06_digits", "08_anatomy", "09_noise_scales",
    "12_tradeoffs", "13_any_teacher",
)  # fmt: skip


def value(records: dict[str, Any], place: str) -> dict[str, float] | None:
    """Median, and least and greatest where they are kept; None for a part that a record has not yet."""
    name, _, path = place.partition(":")
    node: Any = records[name]
    for key in path.split("."):
        if key not in node:
            return None
        node = node[key]
    return node if isinstance(node, dict) else {"median": node}


def disagreements(records: dict[str, Any]) -> list[str]:
    """Places whose value differs from another one's for the same recipe, quantity and protocol."""
    groups = defaultdict(list)
    for (recipe, what), places in PLACES.items():
        for place in places:
            found = value(records, place)
            if found is not None:
                protocol = json.dumps(records[place.partition(":")[0]]["protocol"][recipe], sort_keys=True)
                groups[recipe, what, protocol].append((place, found))
    out = []
    for first, *others in groups.values():
        for place, found in others:
            same = {**found, **first[1]}.keys() & found.keys() & first[1].keys()
            if not all(math.isclose(found[k], first[1][k], rel_tol=1e-5) for k in same):
                out.append(f"{place} has {found}, {first[0]} has {first[1]}")
    return out


def test_one_quantity_by_one_protocol_is_one_number():
    assert disagreements(RECORDS) == []


@pytest.mark.parametrize("place", [p for places in PLACES.values() for p in places if value(RECORDS, p)])
def test_a_number_that_is_changed_by_hand_is_noticed(place):
    records, (name, _, path) = copy.deepcopy(RECORDS), place.partition(":")
    *way, last = path.split(".")
    node: Any = records[name]
    for key in way:
        node = node[key]
    if isinstance(node[last], dict):
        node[last]["median"] *= 1.01
    else:
        node[last] *= 1.01
    assert any(place in line for line in disagreements(records)), f"{place} stands alone"


def test_every_record_with_a_protocol_is_looked_at():
    listed = {place.partition(".json:metrics.")[0] for places in PLACES.values() for place in places}
    for name, record in RECORDS.items():
        keys = {key for path, _ in results.flatten(record["metrics"]) for key in path.split(".")}
        if "protocol" in record and keys & WORDS and not {*record["protocol"]} - {"toy", "digits"}:
            assert name.removesuffix(".json") in listed | {"teacher-student"}, name


def test_records_are_of_the_weights_that_come_with_the_course():
    for name, record in RECORDS.items():
        for role, digest in (record.get("weights") or {}).items():
            assert HASHES[role if "-" in role or "/" in role else f"{record['name']}-{role}"] == digest, (
                name,
                role,
            )


def test_a_page_shows_what_the_records_have():
    for path in sorted((ROOT / "book").glob("*/[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert results.glue(cell.source) == cell.source, (path.stem, cell.id)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_that_quotes_a_distance_prints_its_protocol(page):
    (path,) = (ROOT / "book").glob(f"*/{page}.ipynb")
    text = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "markdown")
    quoted, printed = set(), set()
    for match in results.ROLE.finditer(text):
        _, name, place, _ = results.split(match[1])
        known = RECORDS[name].get("protocol", {})
        if found := re.fullmatch(r"protocol\.([\w-]+)\.line", place):
            printed.add(json.dumps(known[found[1]], sort_keys=True))
        elif place.startswith("metrics.") and (place.endswith((".median", ".fd", ".sw"))):
            recipe = place.split(".")[1]
            recipes = [recipe] if recipe in known else [*known][:1] if len(known) == 1 else []
            quoted |= {json.dumps(known[r], sort_keys=True) for r in recipes}
    assert quoted and quoted <= printed, [json.loads(p)["line"] for p in quoted - printed]
