"""``reproduce shots`` from images to page: one backbone pass, and what a category has too few images for is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from padim_bench.data.mvtec import mvtec
from padim_bench.protocols import get_protocol
from padim_bench.records.config import Execution
from padim_bench.records.files import read_records
from padim_bench.records.merged import read_evidence
from padim_bench.reproduction.kinds import Choice
from padim_bench.reproduction.pages import make_pages
from padim_bench.reproduction.reproduce import reproduce
from padim_bench.runs.plan import Settings
from tests.passes import count_images


def test_the_page_is_made_from_one_pass_whatever_the_draws(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    passes = count_images(monkeypatch)
    choice = Choice(get_protocol("paper"), seeds=2)
    done = reproduce(
        ["shots"], [mvtec(tiny, "grid")], results=tmp_path, choice=choice, settings=Settings(Execution(threads=2)),
        weights="random", backbones=["resnet18"], brief=True, on_message=said.append,
    )  # fmt: skip
    assert sum(passes) == 12  # of training and test images, once each
    assert "grid has 6 training images: draws of 8: left out, since that is all of them or more" in said
    drawn = [record.config.trained for _, record in read_records(tmp_path).values()]
    # Of one image two draws, and two resamples; all images with three draws of channels.
    assert sorted(one.label for one in drawn if one is not None) == ["boot-d0", "boot-d1", "n1-d0", "n1-d1"]
    assert drawn.count(None) == 3
    (page,) = done.pages
    assert "[UNTRAINED RANDOM WEIGHTS]" in page.heading
    assert [title for title, _ in page.sections][:1] == ["R18-Rd100: Image AUROC"]
    (again,) = make_pages(["shots"], read_evidence([tmp_path])[0], choice)
    assert again.texts == {path.suffix: path.read_text() for path in done.files["shots"] if path.suffix in again.texts}
