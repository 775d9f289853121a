"""Pictures over scales: what is computed, and that the pictures of it show it."""

from __future__ import annotations

import csv
import io
import math

import pytest
import torch

from rlg_core.errors import RLGError
from rlg_core.pictures import diversity, picture_distance, structure_diversity
from rlg_core.report.plot import Curve, Panel, number, plot, ticks
from rlg_core.report.sweep import curves, sheet, table
from rlg_core.sweep import Sweep, parse_scales


def flat(value: float, n: int = 1, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.full((n, height, width, 3), value)


@pytest.mark.parametrize(
    ("text", "scales"),
    [
        ("0, 0.5, 1", [0.0, 0.5, 1.0]),
        (" -1;2\n3 ", [-1.0, 2.0, 3.0]),
        ("1.5", [1.5]),
        ("1e-1,,2", [0.1, 2.0]),
    ],
)
def test_scales(text, scales):
    assert parse_scales(text) == scales


@pytest.mark.parametrize("text", ["", " , ", "1, two", "nan", "1, inf", "-10.1", "0, 21"])
def test_scales_that_are_none(text):
    with pytest.raises(RLGError, match=r"expected numbers .*such as"):
        parse_scales(text)


def test_distance_is_the_rms_difference():
    assert picture_distance(flat(0.2, 2), flat(0.5, 2)).tolist() == pytest.approx([0.3, 0.3])
    assert picture_distance(flat(0.0), flat(1.0)).item() == 1.0


def test_distance_does_not_see_grain():
    noise = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))
    assert picture_distance(noise, flat(0.5, 1, 512, 512)).item() < 0.05


def test_diversity_is_the_mean_over_pairs():
    three = torch.cat([flat(0.0), flat(0.0), flat(0.6)])
    assert diversity(three) == pytest.approx((0.0 + 0.6 + 0.6) / 3)
    assert math.isnan(diversity(flat(0.0)))


def test_diversity_of_structure_does_not_fall_with_saturation():
    pictures = torch.rand(6, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    faded = 0.9 + 0.1 * pictures
    assert diversity(faded) < 0.2 * diversity(pictures)
    assert structure_diversity(faded) == pytest.approx(structure_diversity(pictures), rel=1e-3)
    assert structure_diversity(pictures) == pytest.approx(1.0, abs=0.05)
    assert structure_diversity(torch.cat([pictures[:1], faded[:1]])) == pytest.approx(0.0, abs=1e-3)
    assert math.isnan(structure_diversity(pictures[:1]))


def test_lists_are_shared_out_by_scale_and_sorted():
    images = [torch.cat([flat(s / 10), flat(s / 10 + 0.05)]) for s in (3, 0, 1)]
    sweep = Sweep.of_lists([3.0, 0.0, 1.0], images, [6.0, 7.0, 0.0, 1.0, 2.0, 3.0])
    assert list(sweep.scales) == [0.0, 1.0, 3.0]
    assert list(sweep.scores) == [[0.0, 1.0], [2.0, 3.0], [6.0, 7.0]]
    assert [p[0, 0, 0, 0].item() for p in sweep.pictures] == pytest.approx([0.0, 0.1, 0.3])
    assert sweep.best() == 2


def test_one_batch_with_a_picture_a_scale():
    sweep = Sweep.of_lists([0.0, 1.0], [torch.cat([flat(0.0), flat(1.0)])])
    assert [p[0, 0, 0, 0].item() for p in sweep.pictures] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("images", "scores", "message"),
    [
        ([flat(0.0, 3)], [], "images has 3 entries for 2 scales"),
        ([flat(0.0, 4)], [1.0, 2.0, 3.0], "scores has 3 entries for 2 scales"),
        ([flat(0.0, 2)], [1.0, 2.0, 3.0, 4.0], "scores has 4 values: expected 2, one a picture, or 2, one a scale"),
    ],
)
def test_lists_that_do_not_fit(images, scores, message):
    with pytest.raises(RLGError, match=message):
        Sweep.of_lists([0.0, 1.0], images, scores)


def test_table():
    images = [torch.cat([flat(v), flat(v + 0.2)]) for v in (0.0, 0.3)]
    sweep = Sweep.of_lists([0.0, 1.5], images, [1.0, 3.0, 4.0, 4.0])
    rows = list(csv.DictReader(io.StringIO(table(sweep))))
    assert [row["scale"] for row in rows] == ["0", "1.5"] and rows[0]["pictures"] == "2"
    assert float(rows[0]["reward"]) == 2.0 and float(rows[0]["standard_error"]) == pytest.approx(1.0)
    assert float(rows[1]["diversity"]) == pytest.approx(0.2, abs=1e-5) and float(rows[1]["shift"]) == pytest.approx(
        0.3, abs=1e-5
    )
    blank = next(csv.DictReader(io.StringIO(table(Sweep.of_lists([0.0], [flat(0.0)])))))
    assert blank["reward"] == "" and blank["diversity"] == ""


def test_sheet_holds_every_picture_with_its_caption():
    shades = [0.1, 0.3, 0.5, 0.7]
    out = sheet(
        Sweep.of_lists(
            [0.0, 1.0], [torch.cat([flat(shades[0]), flat(shades[1])]), torch.cat([flat(shades[2]), flat(shades[3])])]
        )
    )
    height, width = out.shape[:2]
    centres = [
        out[y, x, 0].item() for x in (width // 4, 3 * width // 4) for y in (height // 4 - 10, 3 * height // 4 - 10)
    ]
    assert centres == pytest.approx(shades, abs=0.01)
    assert out[:, :, 0].min() < 0.2 and out.min() >= 0 and out.max() <= 1


def test_the_best_scale_stands_out():
    images = [flat(0.5), flat(0.5)]
    plain = sheet(Sweep.of_lists([0.0, 1.0], images))
    marked = sheet(Sweep.of_lists([0.0, 1.0], images, [1.0, 2.0]))
    blue = (marked[..., 2] - marked[..., 0] > 0.5).float()
    half = marked.shape[1] // 2
    assert blue[:, half:].sum() > 1000 and blue[:, :half].sum() == 0
    assert (plain[..., 2] - plain[..., 0]).abs().max() < 0.05


def test_curves_without_scores_show_the_shift():
    assert curves(Sweep.of_lists([0.0, 1.0], [flat(0.0), flat(0.5)])).shape == (380, 760, 3)
    assert curves(Sweep.of_lists([0.0, 1.0], [flat(0.0, 2), flat(0.5, 2)], [0.0, 1.0])).shape == (1140, 760, 3)


def test_plot_draws_points_where_they_belong():
    out = plot([Panel([Curve([0.0, 1.0, 2.0], [0.0, math.nan, 1.0])])], 400, 300)
    blue = ((out[..., 2] - out[..., 0]) > 0.4).nonzero()
    assert blue[:, 1].min() < 110 and blue[:, 1].max() > 350, "from the left end to the right"
    left, right = blue[blue[:, 1] < 100][:, 0].float().mean(), blue[blue[:, 1] > 360][:, 0].float().mean()
    assert left > right + 100, "rising"


def test_plot_of_nothing_and_of_one_point():
    assert plot([Panel([])] * 5).shape == (3 * 380, 2 * 760, 3), "more than three fit a screen in two columns only"
    assert plot([Panel([])]).shape == plot([Panel([Curve([1.0], [2.0])])]).shape == (380, 760, 3)


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-1, 4, [-1, 0, 1, 2, 3, 4])]
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_numbers_are_short():
    assert [number(v) for v in (0.0, -1e-15, 1.5, 123456.0, 0.333333)] == ["0", "0", "1.5", "1.235e+05", "0.3333"]
