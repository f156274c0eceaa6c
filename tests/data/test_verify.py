"""``data verify`` says what a run would say, of every category at once."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from padim_bench import PadimBenchError, folder, mvtec
from padim_bench.data.loading import load_category
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Counts
from padim_bench.data.verify import CategoryReport, check_category, verify
from padim_bench.errors import ONE_IMAGE, DataWarning
from padim_bench.protocols import get_protocol


def save(path: Path, shape: tuple[int, ...] = (16, 16, 3), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(size, dtype=np.uint8)
    mask[3:9, 3:9] = 255
    Image.fromarray(mask).save(path)


def make_category(root: Path, name: str, train: int = 3, good: int = 1, bad: int = 2) -> Path:
    base = root / name
    for i in range(train):
        save(base / f"train/good/{i:03}.png", seed=i)
    for i in range(good):
        save(base / f"test/good/{i:03}.png", seed=50 + i)
    for i in range(bad):
        save(base / f"test/crack/{i:03}.png", seed=100 + i)
        save_mask(base / f"ground_truth/crack/{i:03}_mask.png")
    return base


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A complete tree of a dataset of two small categories."""
    make_category(tmp_path, "bottle")
    make_category(tmp_path, "screw", train=4, bad=1)
    two = {"bottle": Counts(3, 3, 2), "screw": Counts(4, 2, 1)}
    with patch.dict(MVTEC_AD, two, clear=True):  # which brings the order back too
        yield tmp_path


def of(root: Path, name: str, **options: object) -> CategoryReport:
    (found,) = [c for c in verify(root, **options).categories if c.name == name]  # type: ignore[arg-type]
    return found


def said_by_a_run(root: Path, name: str) -> str:
    """What listing, planning and loading refuse, or nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        try:
            category = mvtec(root, name)
            load_category(category, get_protocol("paper"))
        except PadimBenchError as error:
            return str(error)
    return ""


# Any dataset.


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_image(path: Path) -> None:
    path.write_bytes(b"not an image")


def mask_of_another_size(path: Path) -> None:
    save_mask(path, (16, 20))


def called_good(path: Path) -> None:
    path.parent.rename(path.parent.with_name("Good"))


SPOILT = {
    "truncated image": (truncate, "train/good/001.png"),
    "truncated normal test image": (truncate, "test/good/000.png"),
    "empty image": (empty, "test/crack/001.png"),
    "no image": (no_image, "test/crack/000.png"),
    "broken mask": (no_image, "ground_truth/crack/000_mask.png"),
    "missing mask": (Path.unlink, "ground_truth/crack/001_mask.png"),
    "mask of another size": (mask_of_another_size, "ground_truth/crack/000_mask.png"),
    "a folder that looks normal": (called_good, "test/good/000.png"),
    "no test image": (shutil.rmtree, "test"),
    "no training image": (shutil.rmtree, "train/good"),
}


@pytest.mark.parametrize("what", SPOILT)
@pytest.mark.parametrize("name", ["part", "bottle"])
def test_what_a_run_refuses_is_a_problem_in_its_words(name: str, what: str, tmp_path: Path) -> None:
    base = make_category(tmp_path, name)
    assert (of(tmp_path, name).problems, said_by_a_run(tmp_path, name)) == ([], "")
    spoil, place = SPOILT[what]
    spoil(base / place)
    problems = of(tmp_path, name).problems
    assert problems
    assert said_by_a_run(tmp_path, name) in problems
    assert not verify(tmp_path).ok


def test_all_problems_are_listed(tmp_path: Path) -> None:
    base = make_category(tmp_path, "part")
    for name in ("train/good/000.png", "test/good/000.png"):
        truncate(base / name)
    for i in range(2):
        (base / f"ground_truth/crack/00{i}_mask.png").unlink()
    problems = of(tmp_path, "part").problems
    assert len(problems) == 4
    for name in ("train/good/000.png", "test/good/000.png", "test/crack/000.png", "test/crack/001.png"):
        assert any(str(base / name) in problem for problem in problems)
    assert all("\n" not in problem for problem in problems)


def test_what_is_left_out_is_a_note(tmp_path: Path) -> None:
    base = make_category(tmp_path, "part")
    (base / "train/good/notes.txt").touch()
    report = of(tmp_path, "part")
    assert (report.ok, report.notes) == (
        True,
        ["left out 1: no image format that is read: 1 (train/good/notes.txt)"],
    )


def test_one_training_image_is_a_note(tmp_path: Path) -> None:
    make_category(tmp_path, "part", train=1)
    report = of(tmp_path, "part")
    assert (report.ok, report.notes) == (True, [ONE_IMAGE])


def test_normal_folders_may_be_named(tmp_path: Path) -> None:
    base = make_category(tmp_path, "part")
    (base / "test/good").rename(base / "test/OK")
    assert not of(tmp_path, "part").ok
    assert of(tmp_path, "part", normal=["good", "ok"]).ok


def test_plain_folders_are_checked_alike(tmp_path: Path) -> None:
    for i in range(6):
        save(tmp_path / f"normal/{i}.png", seed=i)
    save(tmp_path / "anomalous/a.png")
    save_mask(tmp_path / "masks/a.png")
    (report,) = verify(tmp_path, layout="folder").categories
    assert (report.name, report.found, report.problems, report.notes) == (tmp_path.name, Counts(5, 2, 1), [], [])
    truncate(tmp_path / "normal/0.png")
    (tmp_path / "masks/a.png").unlink()
    (report,) = verify(tmp_path, layout="folder").categories
    assert len(report.problems) == 2
    with pytest.raises(PadimBenchError) as raised:
        folder(tmp_path)
    assert str(raised.value) in report.problems


def test_a_folder_with_other_training_images_is_no_category_and_says_why(tmp_path: Path) -> None:
    make_category(tmp_path, "part")
    (tmp_path / "empty/train").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    problems = of(tmp_path, "empty").problems
    assert [p.split(" in ")[0] for p in problems] == ["no training image", "no test image"]
    assert "notes" not in [c.name for c in verify(tmp_path).categories]


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PadimBenchError, match="holds no category"):
        verify(tmp_path)
    with pytest.raises(PadimBenchError, match="no such directory"):
        verify(tmp_path / "absent")


# MVTec AD.


def test_the_table_has_the_totals_of_the_paper() -> None:
    assert len(MVTEC_AD) == 15
    assert [sum(column) for column in zip(*MVTEC_AD.values(), strict=True)] == [3629, 1725, 1258]


@pytest.mark.parametrize("deep", [True, False])
def test_a_complete_tree_is_sound(small: Path, deep: bool) -> None:
    report = verify(small, deep=deep)
    assert report.ok
    assert report.complete
    assert [(entry.name, entry.found) for entry in report.categories] == [
        ("bottle", Counts(3, 3, 2)),
        ("screw", Counts(4, 2, 1)),
    ]
    values = json.loads(json.dumps(report.to_dict()))
    assert values["ok"] is True
    assert values["categories"][1]["expected"] == {"train": 4, "test": 2, "masks": 1}
    shutil.rmtree(small / "screw/ground_truth")
    assert verify(small, deep=deep).complete


def test_an_absent_category_is_told(small: Path) -> None:
    shutil.rmtree(small / "screw")
    report = verify(small)
    assert report.ok
    assert not report.complete
    assert [entry.present for entry in report.categories] == [True, False]


def test_missing_images_are_a_problem_where_the_tree_is_mvtec_ad(small: Path) -> None:
    (small / "screw/test/good/000.png").unlink()
    (small / "bottle/ground_truth/crack/001_mask.png").unlink()
    assert of(small, "screw").problems == ["test: 1 images, expected 2"]
    assert of(small, "bottle").problems[0] == "ground_truth: 1 images, expected 2"
    (small / "bottle/train/good/000.png").unlink()  # now nothing in the tree is MVTec AD's
    assert of(small, "screw").problems == []
    assert of(small, "screw").notes[-1] == (
        "not MVTec AD's screw, unless images are missing (test: 1 images, expected 2)"
    )
    assert of(small, "screw", dataset="mvtec-ad").problems == ["test: 1 images, expected 2"]
    assert not verify(small).complete


def test_a_users_own_bottle_is_no_fault(tmp_path: Path) -> None:
    make_category(tmp_path, "bottle")
    report = verify(tmp_path)
    assert (report.ok, report.complete) == (True, False)
    assert "expected 209" in of(tmp_path, "bottle").notes[0]


@pytest.mark.parametrize("what", ["no image", "mask of another size", "broken mask", "missing mask"])
def test_the_quick_look_sees_missing_files_and_broken_headers(what: str, small: Path) -> None:
    assert check_category(small, "bottle").ok
    spoil, place = SPOILT[what]
    spoil(small / "bottle" / place)
    assert not check_category(small, "bottle").ok


def test_a_truncated_image_is_a_problem_of_the_deep_check_alone(small: Path) -> None:
    truncate(small / "bottle/train/good/001.png")
    assert "train/good/001.png" in of(small, "bottle").problems[0]
    assert verify(small, deep=False).ok


# Trees drawn at random.

FOLDERS = ["good", "good", "dent", "dent", "Good", "ok", "lost+found", ".hidden", "hole|a,b", os.fsdecode(b"\xff")]
NAMES = ["000.png", "001.png", "002.jpg", "000.jpg", "000_mask.png", "001_mask.png", "a.txt", "._b.png", "Thumbs.db"]


def draw_file(path: Path, draw: random.Random) -> None:
    """An image or a mask, mostly sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    kind = draw.choice(["sound"] * 20 + ["empty", "dangling", "pipe", "folder", "noise"])
    if kind == "sound" and path.suffix in {".png", ".jpg"}:
        (save_mask if path.stem.endswith("_mask") else save)(path)
    elif kind == "dangling":
        path.symlink_to("/nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(draw.randbytes(50) if kind == "noise" else b"")


def draw_tree(base: Path, draw: random.Random) -> None:
    for i in range(3):
        draw_file(base / "train" / "good" / f"{i:03}.png", draw)
    defects = draw.sample(FOLDERS, k=draw.randint(1, 3))
    for defect in defects:
        for name in draw.sample(NAMES, k=draw.randint(1, 3)):
            draw_file(base / "test" / defect / name, draw)
            if draw.random() < 0.7:
                draw_file(base / "ground_truth" / defect / f"{Path(name).stem}_mask.png", draw)
    if draw.random() < 0.3:
        shutil.rmtree(base / "ground_truth", ignore_errors=True)
    for _ in range(draw.randint(0, 2)):
        part = draw.choice(["train", "test", "ground_truth", "validation"])
        draw_file(base / part / draw.choice(FOLDERS) / draw.choice(FOLDERS) / draw.choice(NAMES), draw)


@pytest.mark.skipif(sys.platform != "linux", reason="names are no bytes here")
def test_of_any_tree_verify_says_what_a_run_would_say(tmp_path: Path) -> None:
    deadline, outcomes = time.monotonic() + 15, []
    for seed in range(120):
        root = tmp_path / str(seed)
        draw_tree(root / "part", random.Random(seed))
        said, report = said_by_a_run(root, "part"), of(root, "part")
        assert report.ok == (not said), (seed, said, report.problems)
        assert not said or said in report.problems, (seed, said, report.problems)
        assert not any("\n" in line for line in (*report.problems, *report.notes))
        for note in report.notes:
            note.encode("utf-8")
        outcomes.append(bool(said))
        if time.monotonic() > deadline:
            break
    assert {True, False} == set(outcomes)
