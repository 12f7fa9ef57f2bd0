"""Results records: complete, atomic, and honest about the commit."""

import json
import os
from datetime import datetime

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cdedu import records
from cdedu.records import Study, read_record, to_json, write_record

FIELDS = {
    "name", "command", "recipe", "seed", "commit", "data", "hardware", "versions", "date", "seconds", "peak_memory_mb", "metrics",
}  # fmt: skip


def test_a_record_has_all_fields_and_comes_back(tmp_path):
    path = write_record(
        tmp_path / "new" / "run.json",
        metrics={"sw": 0.1},
        command="cdedu evaluate toy",
        seed=3,
        seconds=1.26,
        extra=[1],
    )
    record = read_record(path)
    assert FIELDS <= {*record} and record["name"] == "run" and record["metrics"] == {"sw": 0.1}
    assert (record["seed"], record["seconds"], record["extra"]) == (3, 1.3, [1])
    assert datetime.fromisoformat(record["date"]).utcoffset().total_seconds() == 0
    assert record["versions"]["torch"] == torch.__version__
    assert record["hardware"]["device"] == "cpu" and record["hardware"]["cores"] == os.cpu_count()
    assert record["hardware"]["cpu"] and record["peak_memory_mb"] > 50
    assert [p.name for p in path.parent.iterdir()] == ["run.json"]


def test_a_failed_write_leaves_the_previous_record_whole(tmp_path, monkeypatch):
    path = write_record(tmp_path / "run.json", metrics={"a": 1}, command="c")
    before = path.read_text()
    with pytest.raises(TypeError):
        write_record(path, metrics={"a": object()}, command="c")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(records.os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_record(path, metrics={"a": 2}, command="c")
    assert path.read_text() == before


def test_the_commit_is_marked_where_the_package_differs_and_none_outside_a_checkout(monkeypatch):
    answers = {"rev-parse": "0123456789ab", "status": ""}

    class Done:
        def __init__(self, words):
            self.stdout = answers[words[1]]

    monkeypatch.setattr(records.subprocess, "run", lambda words, **_: Done(words))
    assert records.commit() == "0123456789ab"
    answers["status"] = " M cdedu/noise.py"
    assert records.commit() == "0123456789ab+"

    def missing(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(records.subprocess, "run", missing)
    assert records.commit() is None
    assert json.dumps(records.hardware())


def test_a_study_goes_on_from_its_finished_runs(tmp_path):
    path, made = tmp_path / "study.json", []

    def trained(value: int) -> int:
        made.append(value)
        return value

    for _ in range(2):
        study = Study(path, "python study.py", settings={"grid": (1, 2)})
        total = sum(study.run(f"run/{i}", lambda i=i: trained(i)) for i in (1, 2))
        study.write({"total": total})
    assert made == [1, 2]
    record = read_record(path)
    assert record["metrics"] == {"total": 3} and record["runs"] == {"run/1": 1, "run/2": 2}
    assert FIELDS <= {*record} and record["settings"] == {"grid": [1, 2]}
    with pytest.raises(ValueError, match="other settings"):
        Study(path, "python study.py", settings={"grid": (1, 3)})
    assert Study(path, "python study.py", settings={}, afresh=True).runs == {}


@pytest.mark.parametrize(
    ("field", "words"),
    [("settings", "other settings"), ("protocol", "another protocol"), ("weights", "other weights")],
)
def test_a_study_goes_on_only_under_the_conditions_that_it_began_with(field, words, tmp_path):
    path, before, now = tmp_path / "study.json", {field: {"a": 1}}, {field: {"a": 2}}
    Study(path, "python study.py", **before).write({})
    Study(path, "python study.py", **before)
    with pytest.raises(ValueError, match=rf"was made with {words}; .* begin afresh"):
        Study(path, "python study.py", **now)
    Study(path, "python study.py", afresh=True, **now)


def test_weights_that_a_study_makes_do_not_keep_it_from_going_on(tmp_path):
    study = Study(tmp_path / "study.json", "python study.py")
    study.fixed["weights"] = {"teacher": "a hash"}
    study.write({})
    Study(study.path, "python study.py")


def test_an_interrupted_study_keeps_what_was_finished(tmp_path):
    study = Study(tmp_path / "study.json", "python study.py")
    study.run("first", lambda: {"sw": 0.5})
    with pytest.raises(KeyboardInterrupt):
        study.run("second", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert Study(study.path, "python study.py").runs == {"first": {"sw": 0.5}}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text('ab \n\t"\\[]{},:é'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab \n[]{}"), inner),
)


@given(JSON)
def test_a_record_on_few_lines_says_the_same(value):
    assert json.loads(to_json(value)) == value


def test_a_list_of_numbers_takes_one_line():
    assert (
        to_json({"a": [1, 2, 3], "b": [{"c": 1, "d": "x"}]})
        == '{\n "a": [1, 2, 3],\n "b": [\n  {"c": 1, "d": "x"}\n ]\n}'
    )
