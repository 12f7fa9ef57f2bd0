"""Scores of a folder of pictures with captions, by stand-ins for CLIP and Inception; and every way in which a folder can be wrong."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from cdedu import cli
from cdedu.data.images import decode
from cdedu.evaluation.captions import (
    captioned,
    clip_encoders,
    clip_score,
    encode_folder,
    folder_distance,
    read_captions,
)

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def look(x):
    """A stand-in for an image encoder: the mean colour, (B, 3)."""
    assert x.dtype == torch.uint8
    return x.float().mean((2, 3)) / 255


def read(captions):
    """A stand-in for a text encoder: which colour is named, (B, 3)."""
    return torch.tensor([[float(word in caption) for word in COLOURS] for caption in captions])


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "pictures"
    (path / "more").mkdir(parents=True)
    for name, colour in zip(("b.png", "a.jpg", "more/c.png"), COLOURS, strict=True):
        Image.new("RGB", (12, 9), COLOURS[colour]).save(path / name, quality=100, subsampling=0)
    return path


def written(path, captions):
    path.write_text(json.dumps(captions), encoding="utf-8")
    return path


RIGHT = {"b.png": "something red", "a.jpg": "something green", "more/c.png": "something blue"}


@pytest.fixture
def pairs(folder, tmp_path):
    return captioned(folder, written(tmp_path / "captions.json", RIGHT))


# --- scores ------------------------------------------------------------------------------------------


def test_pictures_and_captions_are_paired_by_name(pairs):
    assert pairs.names == ["a.jpg", "b.png", "more/c.png"]
    assert pairs.captions == ["something green", "something red", "something blue"]


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_score_is_a_hundred_where_picture_and_caption_agree(pairs, batch):
    torch.testing.assert_close(
        clip_score(pairs, look, read, size=8, batch=batch), torch.full((3,), 100.0), atol=0.5, rtol=0
    )


def test_the_score_is_the_cosine_and_never_negative(folder, tmp_path):
    mixed = captioned(
        folder, written(tmp_path / "c.json", RIGHT | {"b.png": "red and green", "a.jpg": "blue"})
    )
    found = clip_score(mixed, look, read, size=8)
    torch.testing.assert_close(found, torch.tensor([0.0, 100 / 2**0.5, 100.0]), atol=1, rtol=0)
    assert (clip_score(mixed, lambda x: -look(x) - 0.01, read, size=8) == 0).all()


def test_the_scale_of_the_features_does_not_matter(pairs):
    torch.testing.assert_close(
        clip_score(pairs, lambda x: 7 * look(x), read, 8), clip_score(pairs, look, read, 8)
    )


def test_the_distance_of_a_folder_to_itself_is_zero_and_ignores_captions(folder, tmp_path):
    assert folder_distance(folder, folder, look, size=8) == pytest.approx(0, abs=1e-6)
    other = tmp_path / "other"
    other.mkdir()
    for i, shade in enumerate((0, 30, 90)):
        Image.new("RGB", (8, 8), (shade, shade, 0)).save(other / f"{i}.png")
    assert folder_distance(other, folder, look, size=8) > 0.1
    assert encode_folder(other, look, 8).shape == (3, 3)


def test_coco_gives_the_first_caption_of_each_picture(tmp_path):
    coco = {
        "images": [{"id": 7, "file_name": "b.png"}, {"id": 9, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 9, "id": 1, "caption": "one"},
            {"image_id": 7, "id": 2, "caption": "two"},
            {"image_id": 9, "id": 3, "caption": "three"},
        ],
    }
    assert read_captions(written(tmp_path / "coco.json", coco)) == {"a.jpg": "one", "b.png": "two"}


# --- what can be wrong -------------------------------------------------------------------------------


def test_a_picture_without_caption_and_a_caption_without_picture_are_named(folder, tmp_path):
    few = written(tmp_path / "few.json", {"b.png": "red", "a.jpg": " "})
    with pytest.raises(
        ValueError, match=r"2 of 3 pictures .* have no caption in .*few\.json, a\.jpg the first"
    ):
        captioned(folder, few)
    many = written(tmp_path / "many.json", RIGHT | {"gone.png": "nothing"})
    with pytest.raises(ValueError, match=r"1 of 4 captions .* have no picture in .*, gone\.png the first"):
        captioned(folder, many)


def test_a_file_that_is_no_picture_is_named(pairs, folder):
    (folder / "b.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"b\.png is no picture that can be read"):
        clip_score(pairs, look, read, size=8)


def test_an_empty_or_missing_folder_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no picture"):
        encode_folder(tmp_path / "empty", look, 8)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        encode_folder(tmp_path / "gone", look, 8)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "null",
        "5",
        "[" * 100_000,
        '{"a.png": 3}',
        '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}]}',
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ValueError, match=r"c\.json is neither"):
        read_captions(tmp_path / "c.json")


def test_captions_that_are_not_there(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of captions"):
        captioned(folder, tmp_path / "gone.json")


def test_encoders_that_do_not_meet_are_refused(pairs):
    with pytest.raises(ValueError, match="in one space"):
        clip_score(pairs, lambda x: look(x)[:, :2], read, size=8)
    with pytest.raises(ValueError, match="NaN"):
        clip_score(pairs, lambda x: look(x) * torch.nan, read, size=8)


def test_without_transformers_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        clip_encoders()


def test_weights_of_clip_come_from_safetensors_only(monkeypatch):
    def from_pretrained(name, *, local_files_only, use_safetensors):
        assert local_files_only and use_safetensors
        raise OSError("no file named model.safetensors")

    model = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(CLIPModel=model, AutoTokenizer=None))
    with pytest.raises(
        OSError, match=r"hf download other/clip .*model\.safetensors[\s\S]* is not read: take another"
    ):
        clip_encoders("other/clip")


def test_the_mean_is_that_of_torchmetrics(pairs):
    """Its processor and model are stand-ins, too; it clamps the mean, not each picture, and none is negative here."""
    from torchmetrics.functional.multimodal.clip_score import clip_score as torchmetrics_score

    def processor(text=None, images=None, **_):
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        words = torch.tensor([[pairs.captions.index(caption)] for caption in text])
        return {"input_ids": words, "attention_mask": torch.ones_like(words)}

    class Model:
        config = None

        def to(self, device):
            return self

        def get_image_features(self, pixels):
            return look(pixels)

        def get_text_features(self, words, mask):
            return read([pairs.captions[i] for i in words.flatten()]) + 0.3

    pictures = [
        torch.from_numpy(decode(name, (pairs.folder / name).read_bytes, 8).copy()) for name in pairs.names
    ]
    theirs = torchmetrics_score(pictures, pairs.captions, lambda: (Model(), processor))
    ours = clip_score(pairs, look, lambda captions: read(captions) + 0.3, size=8).mean()
    assert float(theirs) == pytest.approx(float(ours), rel=1e-5) and 60 < ours < 99


@pytest.fixture
def command(monkeypatch, capsys):
    """``cdedu captions``: exit code, standard output, standard error."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["cdedu", "captions", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def test_the_command_says_what_is_wrong_in_a_line(folder, tmp_path, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    captions = written(tmp_path / "captions.json", RIGHT)
    for words, what in (
        ((folder, tmp_path / "gone.json"), "there is no file of captions"),
        ((folder, captions), "pip install transformers"),
    ):
        code, _, err = command(*words)
        assert code == 2 and what in err and err.count("\n") == 1


def test_the_command_prints_both_scores(folder, tmp_path, command, monkeypatch):
    captions = written(tmp_path / "captions.json", RIGHT)
    monkeypatch.setattr("cdedu.evaluation.captions.clip_encoders", lambda: (look, read))
    monkeypatch.setattr("cdedu.evaluation.captions.inception_encoder", lambda: look)
    code, out, _ = command(folder, captions, "--real", folder)
    assert code == 0 and ("3 pictures, CLIP score 99" in out or "3 pictures, CLIP score 100" in out)
    assert "features 0.00" in out or "features -0.00" in out


def test_a_wrong_real_folder_is_named_before_the_work(folder, tmp_path, command, monkeypatch):
    captions = written(tmp_path / "captions.json", RIGHT)
    monkeypatch.setattr("cdedu.evaluation.captions.clip_encoders", lambda: pytest.fail("the work has begun"))
    code, _, err = command(folder, captions, "--real", tmp_path / "nowhere")
    assert code == 2 and "there is no folder" in err


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("stored, told", [("e\u0301.png", "\u00e9.png"), ("\u00e9.png", "e\u0301.png")])
def test_names_are_the_same_if_they_look_the_same_whatever_system_wrote_them(
    tmp_path, stored, told, encoding
):
    """An accent as a sign of its own or not, a byte-order mark or none."""
    Image.new("RGB", (4, 4)).save(tmp_path / stored)
    (tmp_path / "c.json").write_text(json.dumps({told: "a café"}, ensure_ascii=False), encoding=encoding)
    pairs = captioned(tmp_path, tmp_path / "c.json")
    assert pairs.names == [stored] and pairs.captions == ["a café"]


def test_two_names_that_look_the_same_keep_their_own_captions(tmp_path):
    names = {"e\u0301.png": "one", "\u00e9.png": "two"}
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    pairs = captioned(tmp_path, written(tmp_path / "c.json", names))
    assert dict(zip(pairs.names, pairs.captions, strict=True)) == names
