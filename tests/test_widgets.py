"""The canvas without a browser: what is drawn, what is asked, what is shown."""

import pytest
import torch

from cdedu.course.widgets import Canvas, png


def test_every_change_asks_once():
    asked = []

    def answer(x):
        asked.append(x)
        return x.expand(3, 1, 8, 8)

    start = -torch.ones(8, 8)
    start[2, 3] = 1
    canvas = Canvas(answer, start=start)
    assert len(asked) == 1 and canvas.drawing[0, 0].equal(start)
    canvas.pixels[0].value = True
    assert len(asked) == 2 and asked[1][0, 0, 0, 0] == 1 and asked[1].sum() == -60
    before = canvas.view.value
    canvas.clear()
    assert len(asked) == 3 and (canvas.drawing == -1).all() and canvas.view.value != before
    canvas.pixels[5].value = True
    assert len(asked) == 4 and canvas.pictures.shape == (3, 1, 8, 8)


def test_pictures_become_a_png():
    for channels in (1, 3):
        assert png(torch.zeros(2, channels, 8, 8)).startswith(b"\x89PNG")


def test_a_start_of_another_size_is_refused():
    with pytest.raises(ValueError, match="start has 4 pixels, but a canvas of size 8 has 64"):
        Canvas(lambda x: x, start=torch.zeros(2, 2))


def test_pictures_are_tiled_with_paper_between_them():
    """Rows from the top left, one pixel of paper after each picture, and paper where a row is short."""
    from cdedu.plotting import tiled

    ink = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2) / 2
    sheet = tiled(ink, columns=2)
    wanted = torch.full((6, 6), -1.0)
    wanted[0:2, 0:2], wanted[0:2, 3:5], wanted[3:5, 0:2] = 0.0, 0.5, 1.0
    assert torch.equal(sheet, wanted)
    colours = tiled(ink.expand(3, 3, 2, 2), columns=3)
    assert colours.shape == (3, 9, 3) and colours[2].eq(1).all() and colours[0, 3, 0] == 0.75


@pytest.mark.parametrize(
    "shape", [(3, 2), (3, 1, 8, 8), (3, 3, 8, 8), (3, 6, 14, 14), (3, 2, 4, 4), (3, 48, 3)]
)
def test_samples_of_every_recipe_have_a_picture(shape, tmp_path):
    """Points, images, clips, latents, clouds of points."""
    from cdedu.plotting import save_samples

    save_samples(tmp_path / "s.png", torch.rand(shape, generator=torch.Generator().manual_seed(0)), "samples")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")


def test_a_sheet_of_classes_has_a_column_for_each(monkeypatch, tmp_path):
    from matplotlib import pyplot as plt

    from cdedu.plotting import save_samples

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    save_samples(tmp_path / "s.png", torch.rand(20, 3, 4, 4), "samples", ["plane", *"bcdefghij"])
    (ax,) = figures[0].axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["plane", *"bcdefghij"]
    assert ax.get_xticks().tolist() == [2.5 + 5 * i for i in range(10)]
    assert ax.images[0].get_array().shape[:2] == (10, 50)
