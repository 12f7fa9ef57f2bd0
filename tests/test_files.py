"""A file that is written anew is either the old one or the new one."""

import ast
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from cdedu import files
from cdedu.files import parse_json, read_header, read_json, regular, replacing, sweep, write_tensors

ROOT = Path(__file__).resolve().parents[1]


def test_the_new_file_takes_the_old_ones_place(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    for text in ("one", "two"):
        with replacing(path) as temporary:
            temporary.write_text(text)
        assert path.read_text() == text and [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail():
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "code, remedy",
    [
        (errno.ENOSPC, "the disk is full; make room"),
        (errno.EROFS, "this disk is read-only; choose another"),
        (errno.EACCES, "permission is denied; choose another folder"),
        (errno.ENAMETOOLONG, "the name is too long for this disk"),
    ],
)
@pytest.mark.parametrize("library", [False, True], ids=["python", "safetensors"])
def test_an_error_of_the_disk_names_the_path_and_a_remedy(tmp_path, monkeypatch, code, remedy, library):
    path = tmp_path / "file.safetensors"
    path.write_text("old")
    system = OSError(code, os.strerror(code))
    error = SafetensorError(f"I/O error: {os.strerror(code)} (os error {code})") if library else system

    def fail(*_):
        raise error

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match=f"cannot write .*file.safetensors: {remedy}") as told:
        write_tensors(path, {"a": torch.zeros(2)}, {})
    assert told.value.errno == code and isinstance(told.value, OSError if library else type(system))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_places_where_no_file_can_be_are_named_before_any_work(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path, remedy in (
        ("folder", "there is a folder of that name; give the name of a file"),
        ("file/deep/x", "a part of this path is a file"),
        ("n" * 300, "the name is too long"),
    ):
        with pytest.raises(OSError, match=f"{path}: {remedy}"), replacing(tmp_path / path):
            pytest.fail("the work began")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


KILLED = """
import os, signal, sys
from cdedu.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    """Not what a living process is writing, files of other names, folders, or what lies deeper."""
    path = tmp_path / "x.state.safetensors"
    subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        env=os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])},
    )
    (left,) = tmp_path.iterdir()
    gone = int(left.name.split(".")[-2])
    assert left.name == f".x.state.safetensors.{gone}.tmp"
    others = [f".x.{os.getppid()}.tmp", f"x.{gone}.tmp", f".x.{gone}.tmp.png", ".x.tmp", ".x.12a.tmp"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / f".folder.{gone}.tmp").mkdir()
    (tmp_path / f".link.{gone}.tmp").symlink_to(tmp_path / ".x.tmp")
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / left.name).touch()
    before = {*tmp_path.rglob("*")}
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert sweep(tmp_path) == [left]
    assert path.read_text() == "whole" and {*tmp_path.rglob("*")} == before - {left} | {path}


def test_what_an_earlier_process_of_our_own_number_left_is_swept(tmp_path):
    """In a container the process that is started again has the number of the one that was killed."""
    left = tmp_path / f".x.{os.getpid()}.tmp"
    left.touch()
    assert sweep(tmp_path) == [left] and not sweep(tmp_path) and not sweep(tmp_path / "nowhere")


def test_an_unfinished_file_of_our_own_stays(tmp_path):
    with replacing(tmp_path / "x") as temporary:
        temporary.write_text("whole")
        assert sweep(tmp_path) == []
    assert (tmp_path / "x").read_text() == "whole"


@pytest.mark.parametrize(
    "text, why",
    [
        ("5", "should be a JSON object, but it is b'5'"),
        ("[1]", "should be a JSON object"),
        ("{", "is damaged"),
        ('{"a": NaN}', "the number NaN, which is not finite"),
        ('{"a": 1e999}', "the number 1e999, which is not finite"),
        ('{"a": ' * 10_000, "nested too deeply"),
        ('{"a": "' + "x" * 5_000_000 + '"}', "more than 4,194,304"),
    ],
    ids=lambda text: text[:12],
)
def test_json_that_is_no_plain_object_is_refused_by_name(tmp_path, text, why):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.json is damaged: .*{why}|{why}"):
        read_json(path)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text('{"σ": 0.5}', encoding=encoding)
        assert read_json(path) == {"σ": 0.5}
    assert parse_json('{"a": [1, 2.5, -1e-9]}') == {"a": [1, 2.5, -1e-9]}


def test_a_header_without_plain_numbers_is_not_written(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(1)}, {"step": 1})
    with pytest.raises(
        ValueError, match="a.safetensors is not written, since its header holds no plain numbers"
    ):
        write_tensors(path, {"a": torch.zeros(1)}, {"step": float("nan")})
    assert read_header(path) == {"step": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="it has no named pipes of this kind")
def test_only_ordinary_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path / "pipe", "a pipe"),
        (tmp_path, "a folder"),
        (Path("/dev/null"), "a device"),
    ):
        with pytest.raises(ValueError, match=f"{path} is {kind}, not a file; give the path of a checkpoint"):
            regular(path, "checkpoint")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        regular(tmp_path / "gone", "checkpoint")


def test_every_text_file_is_opened_in_utf_8():
    """An encoding is named wherever text is read or written; else it would be that of the locale."""
    silent = []
    for path in [*(ROOT / "cdedu").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _opens_text(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not silent


def _opens_text(call: ast.Call) -> bool:
    """Whether a call opens a file as text and does not say its encoding."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    module = getattr(getattr(call.func, "value", None), "id", "")
    words = [c.value for a in call.args for c in ast.walk(a) if isinstance(c, ast.Constant)]
    binary = any(isinstance(word, str) and set(word) <= set("rwab+") and "b" in word for word in words)
    said = binary or module in ELSEWHERE or any(k.arg == "encoding" for k in call.keywords)
    return name in ("read_text", "write_text", "open") and not said


ELSEWHERE = {"Image", "os", "webbrowser", "tarfile", "zipfile", "archive"}
"""Whose ``open`` opens no text."""

SIGMA = """
import sys
from cdedu import cli
from cdedu.records import read_record, write_record
path = sys.argv[1]
write_record(path, metrics={"σ": 1}, command="σ")
assert read_record(path)["metrics"] == {"σ": 1}
sys.argv = ["cdedu", "sample", "--help"]
cli.main()
"""


@pytest.mark.slow
def test_messages_and_files_do_not_depend_on_the_locale(tmp_path):
    """A σ in a file that is written and read, and the minus of the help on a terminal that has none."""
    locale = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "cp1252:strict",
    }
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[1])} | locale
    (tmp_path / "run.py").write_text(SIGMA, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "record.json")]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0 and b"\\u2212" in done.stdout, done.stderr.decode("cp1252")
    assert json.loads((tmp_path / "record.json").read_bytes())["command"] == "σ"
