"""The ruler, said once: names stand for seeds and sizes, a ruler obeys its protocol, and a study keeps to one."""

from dataclasses import replace

import pytest
import torch

from cdedu.data import Dataset
from cdedu.evaluation.comparison import Ruler
from cdedu.evaluation.protocol import NAMED, Protocol, protocol_of
from cdedu.records import Study

X = torch.randn(90, 2, generator=torch.Generator().manual_seed(0))
DATA = Dataset("points", X[:60], X[60:])


def test_names_stand_for_draws_of_held_out_samples():
    many = Dataset("many", torch.zeros(9000, 2), torch.zeros(6000, 2))
    for name, (first, draws, part) in NAMED.items():
        assert protocol_of(many, name).n == 6000 // part
        found = protocol_of(DATA, name)
        assert (found.name, found.n, found.first_seed, found.draws) == (name, 30, first, draws)
    assert protocol_of(DATA, draws=3) == protocol_of(DATA, "brief")
    assert protocol_of(DATA, n=1000) == protocol_of(DATA), "no more than there are held-out"
    assert protocol_of(DATA, n=20).name == protocol_of(DATA, draws=4).name == "own"


def test_nothing_is_reported_with_the_seeds_of_tuning():
    reported = [seed for name in ("standard", "brief") for seed in protocol_of(DATA, name).seeds]
    assert not {*protocol_of(DATA, "tuning").seeds} & {*reported}


def test_a_ruler_draws_with_the_seeds_of_its_protocol():
    protocol, seen = replace(protocol_of(DATA, n=20), first_seed=7, draws=3), []

    def draw(generator):
        seen.append(generator.initial_seed())
        return torch.randn(20, 2, generator=generator)

    ruler = Ruler(DATA, protocol=protocol)
    row = ruler.over_seeds(draw)["sw"]
    assert seen == [7, 8, 9] and ruler.n == len(ruler.real) == 20
    by_hand = sorted(
        ruler.measure(torch.randn(20, 2, generator=torch.Generator().manual_seed(s)))["sw"] for s in seen
    )
    assert [row["min"], row["median"], row["max"]] == by_hand


def test_the_line_says_size_draws_seeds_and_reference():
    several, one = protocol_of(DATA), protocol_of(DATA, "tuning")
    assert several.line == "30 samples in each of 5 draws (seeds 0 to 4), against 30 held-out ones"
    assert one.line == "30 samples of 1 draw (seed 1000), against 30 held-out ones"
    fields = several.to_dict()
    assert fields.pop("line") == several.line and Protocol(**fields) == several


@pytest.mark.parametrize(
    "options, words",
    [
        ({"name": "quick"}, "protocol 'quick' is not known; choose among standard, brief, tuning"),
        ({"n": 1}, "1 samples are too few to compare; use at least 2"),
        ({"draws": 0}, "draws = 0, but it must be at least 1"),
    ],
)
def test_protocols_refuse(options, words):
    with pytest.raises(ValueError, match=words):
        protocol_of(DATA, **options)


def test_a_study_goes_on_with_its_protocol_only(tmp_path):
    path, old = tmp_path / "study.json", {"toy": protocol_of(DATA, "brief").to_dict()}
    Study(path, "c", protocol=old).write({})
    Study(path, "c", protocol=old)
    with pytest.raises(ValueError, match="another protocol"):
        Study(path, "c", protocol={"toy": protocol_of(DATA).to_dict()})
