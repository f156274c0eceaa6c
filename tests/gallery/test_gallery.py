"""Galleries of maps made by hand: what stands where, that all of it is there, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from padim_bench.cli import main
from padim_bench.maps.files import write_map
from tests.browser import Browser, started

WIDTH, HEIGHT = 40, 30
ODD = "50% größer & <b>"  # of a category; and of a kind of defect
# Maxima of the maps: the best threshold is 3, which misses one and is wrong about one.
SCORES = {
    "good/a": 1.0,
    "good/b 1": 3.5,
    "good/c": 2.0,
    "good/d": 1.8,
    f"{ODD}/a": 1.5,
    f"{ODD}/ü#2": 3.0,
    "cut/a": 5.0,
    "cut/d": 4.0,
}


def picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def draw_category(data: Path, maps: Path, name: str, scores: dict[str, float] = SCORES, *, masks: bool = True) -> None:
    """Grey images with a map each that has its score in a corner, which is what the masks of anomalous ones hold."""
    grey = np.full((HEIGHT, WIDTH), 90, np.uint8)
    picture(data / name / "train/good/0.png", grey)
    for place, score in scores.items():
        picture(data / name / f"test/{place}.png", grey)
        score_map = np.linspace(0, 0.5, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)
        score_map[:9, :9] = score
        write_map(maps / name / f"test/{place}.tiff", score_map)
        if masks and not place.startswith("good/"):
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[:9, :9] = 255
            picture(data / name / f"ground_truth/{place}_mask.png", mask)


Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """The command over ``data`` and ``maps``: its document, or the one line by which it refuses."""

    def called(*more: object, out: Path = tmp_path / "out") -> Any:
        capfd.readouterr()
        given = ["gallery", "--maps", tmp_path / "maps", "--data", tmp_path / "data", "--out", out, "--json", *more]
        code = main([str(one) for one in given])
        said, lines = capfd.readouterr()
        if code == 0:
            return json.loads(said)
        assert code == 2, lines
        errors = [line for line in lines.splitlines() if "error: " in line]
        assert len(errors) == 1, lines
        return errors[0]

    return called


def category(tmp_path: Path, name: str = "part", **more: Any) -> Path:
    draw_category(tmp_path / "data", tmp_path / "maps", name, **more)
    return tmp_path / "out" / name


def names_in(page: Path) -> list[str]:
    """Of the images, in order."""
    return [
        text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        for text in re.findall(r'<h3><a href="#.*?">(.*?)</a></h3>', page.read_text(encoding="utf-8"))
    ]


def linked(page: Path) -> list[Path]:
    """Every file that a page names, as a browser finds it."""
    found = re.findall(r'(?:src|href)="(.*?)"', page.read_text(encoding="utf-8"))
    assert not [one for one in found if ":" in one or one.startswith("/")]
    return [page.parent / unquote(one) for one in found if not one.startswith("#")]


def test_wrong_images_stand_first_and_the_page_says_by_which_threshold(tmp_path: Path, call: Call) -> None:
    category(tmp_path)
    other = category(tmp_path, ODD)
    said = call()
    assert [(one["category"], one["missed"], one["false_alarms"], one["threshold"]) for one in said["categories"]] == [
        (ODD, 1, 1, 3.0),
        ("part", 1, 1, 3.0),
    ]
    page = tmp_path / "out" / "part" / "index.html"
    assert names_in(page) == [
        f"{ODD}/a.png", "good/b 1.png", "cut/a.png", "cut/d.png", f"{ODD}/ü#2.png", "good/c.png", "good/d.png",
        "good/a.png",
    ]  # fmt: skip
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert "from a score of <b>3</b> on, its score being the maximum of its map" in text
    assert 'maximises F1 <span class="whole">(75.0 %)</span> <b>over these very test images</b>' in text
    # One pixel in a hundred is above 1.9 in normal images, the median, and the threshold is in the middle.
    assert "no colour up to <b>1.9</b>" in text
    assert "strongest from <b>4.1</b> on" in text
    for one in (page, other / "index.html", tmp_path / "out" / "index.html"):
        assert linked(one)
        assert [str(path) for path in linked(one) if not path.is_file()] == []
    assert len(list((other / "mask").rglob("*.jpg"))) == 4
    assert len(list((other / "heat").rglob("*.jpg"))) == len(SCORES)
    over = np.asarray(Image.open(other / "heat" / "cut" / "a.jpg"))
    assert over.shape == (192, 256, 3)
    assert over[20, 20].argmax() == 0  # red
    assert np.ptp(over[150, 200]) < 4  # grey


def test_a_category_drawn_later_joins_the_index(tmp_path: Path, call: Call) -> None:
    category(tmp_path)
    call()
    shutil.rmtree(tmp_path / "maps" / "part")
    category(tmp_path, "second", scores={"good/a": 1.0, "cut/a": 2.0})
    said = call("--categories", "second", "--title", "A&B")
    assert [one["metrics"]["image_auroc"] for one in said["categories"]] == [1.0]
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert 'href="part/index.html"' in text
    assert 'href="second/index.html"' in text
    assert "A&amp;B" in text


def test_a_category_that_fails_leaves_the_others_in_the_index(tmp_path: Path, call: Call) -> None:
    category(tmp_path)
    category(tmp_path, "torn")
    (tmp_path / "maps/torn/test/cut/a.tiff").write_bytes(b"II")
    assert "torn" in call()
    assert 'href="part/index.html"' in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")


def test_scores_that_are_given_judge_and_maps_then_have_no_threshold_of_theirs(tmp_path: Path, call: Call) -> None:
    base = category(tmp_path)
    scores = tmp_path / "scores.csv"
    rows = [f'"part/test/{place}.png",{-value}' for place, value in SCORES.items()]
    scores.write_text("image,score\n" + "\n".join(rows) + "\n", encoding="utf-8")
    (found,) = call("--scores", scores)["categories"]
    assert found["threshold"] == -5
    text = (base / "index.html").read_text(encoding="utf-8")
    assert "its score being given with the maps" in " ".join(text.split())
    assert "outlined in white" not in text
    assert "strongest from <b>3.5</b>" in text  # the median of the anomalous maps' maxima


def without_masks(data: Path, maps: Path) -> None:
    draw_category(data, maps, "part", masks=False)


def only_normal(data: Path, maps: Path) -> None:
    draw_category(data, maps, "part", {"good/a": 1.0, "good/b": 2.0})


def one_image(data: Path, maps: Path) -> None:
    draw_category(data, maps, "part", {"cut/a": 1.0})


def of_many_kinds(data: Path, maps: Path) -> None:
    """Grey of 16 bits, colours with alpha, another size, a map without a scale, and one as npy."""
    draw_category(data, maps, "part")
    picture(data / "part/test/cut/a.png", np.full((HEIGHT, WIDTH), 40000, np.uint16))
    picture(data / "part/test/cut/d.png", np.full((HEIGHT, WIDTH, 4), 200, np.uint8))
    picture(data / "part/test/good/c.png", np.full((700, 20), 90, np.uint8))
    (maps / "part/test/good/c.tiff").unlink()
    np.save(maps / "part/test/good/c.npy", np.full((700, 20), -3.0))


@pytest.mark.filterwarnings("ignore:.*only one class present")
@pytest.mark.parametrize("drawn", [without_masks, only_normal, one_image, of_many_kinds])
def test_whatever_a_category_lacks_or_mixes_it_has_a_page(
    tmp_path: Path, call: Call, drawn: Callable[[Path, Path], None]
) -> None:
    drawn(tmp_path / "data", tmp_path / "maps")
    (found,) = call()["categories"]
    page = Path(found["page"])
    assert len(names_in(page)) == found["n_images"]
    assert [path for path in linked(page) if not path.is_file()] == []
    text = page.read_text(encoding="utf-8")
    assert ("There are no masks" in text) is (drawn in {without_masks, only_normal})
    if drawn in {only_normal, one_image}:
        assert found["threshold"] is None
        assert "no threshold can be chosen" in text
    if drawn is of_many_kinds:
        assert Image.open(page.parent / "image/good/c.jpg").size == (15, 512)


def test_maps_of_a_protocol_lie_where_it_crops_and_what_it_does_not_see_is_darker(tmp_path: Path, call: Call) -> None:
    base = category(tmp_path, scores={"good/a": 1.0, "cut/a": 2.0})
    for place, score in (("good/a", 1.0), ("cut/a", 2.0)):
        write_map(tmp_path / f"maps/part/test/{place}.tiff", np.full((224, 224), score, np.float32))
    assert "224x224" in call()
    call("--protocol", "paper")
    heat = np.asarray(Image.open(base / "heat/good/a.jpg")).astype(int)
    assert abs(heat[2, 2] - 40).max() < 4
    assert abs(heat[96, 128] - 90).max() < 4
    assert "border that the model does not see is darker" in " ".join((base / "index.html").read_text().split())


def test_what_is_wrong_with_maps_is_named_and_nothing_is_written(tmp_path: Path, call: Call) -> None:
    category(tmp_path)
    path = tmp_path / "maps/part/test/cut/a.tiff"
    path.unlink()
    assert "no map for" in call()
    write_map(path, np.full((HEIGHT, WIDTH), np.nan, np.float32))
    assert "a.tiff has NaN" in call()
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_gallery_stays_as_it_is(tmp_path: Path, call: Call) -> None:
    category(tmp_path)
    out = tmp_path / "out"
    for name in ("index.html", "gallery.json"):
        out.mkdir()
        (out / name).write_text("mine")
        assert f"is no gallery of this version and holds {name}" in call()
        assert {path.name: path.read_text() for path in out.iterdir()} == {name: "mine"}
        shutil.rmtree(out)
    out.write_text("")
    assert "it is a file, not a folder" in call()
    out.unlink()
    call()
    shutil.rmtree(out / "part")
    (out / "part").write_text("in the way")
    assert f"cannot write {out / 'part'}" in call()


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_in_a_line(tmp_path: Path, call: Call) -> None:
    category(tmp_path)
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot write" in call(out=tmp_path / "closed" / "out")


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as one:
        yield one


def test_a_page_shows_its_pictures_filters_and_asks_for_nothing_else(
    tmp_path: Path, call: Call, browser: Browser
) -> None:
    base = category(tmp_path, ODD)
    call()
    cards = "[...document.querySelectorAll('article')].filter(e => e.offsetParent)"
    shown = f"{cards}.map(e => e.querySelector('h3').textContent)"
    choose = "(e => {{ e.value = '{}'; e.dispatchEvent(new Event('change')) }})(document.getElementById('{}'))"
    for width, dark in ((400, False), (400, True), (1400, False), (1400, True)):
        browser.look(width, 900, dark=dark, phone=width == 400)
        for page in (tmp_path / "out" / "index.html", base / "index.html"):
            browser.open(page)
            # Those that would be loaded when they are scrolled to, too.
            loaded = "Promise.all([...document.images].map(i => { i.loading = 'eager'; return i.decode() }))"
            assert browser.run(f"{loaded}.then(() => [...document.images].every(i => i.naturalWidth > 0))") is True
            assert browser.run("document.images.length") == (1 if page.parent == tmp_path / "out" else 20)
            assert browser.run("document.documentElement.scrollWidth") <= width
            light = browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
            assert (int(light) < 100) is dark
            assert browser.complaints == []
            assert {url.partition(":")[0] for url in browser.asked} == {"file"}
    every = browser.run(shown)
    assert every[:3] == [f"{ODD}/a.png", "good/b 1.png", "cut/a.png"]
    browser.run(choose.format("missed|false alarm", "verdict"))
    assert browser.run(shown) == every[:2]
    assert browser.run("document.getElementById('shown').textContent") == "2 of 8 images"
    browser.run(choose.format("=good", "defect"))
    assert browser.run(shown) == ["good/b 1.png"]
    browser.run(choose.format("", "verdict"))
    assert browser.run(shown) == ["good/b 1.png", "good/c.png", "good/d.png", "good/a.png"]
    # An address of what is filtered out shows it.
    browser.run("location.hash = '#cut-a'")
    assert browser.run(f"new Promise(r => setTimeout(() => r({shown}), 100))") == every
    assert browser.complaints == []
