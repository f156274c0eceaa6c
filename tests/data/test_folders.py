"""What is read of a dataset's folders, what is left out and said, and what a folder's name says of its images."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from padim_bench import PadimBenchError, Protocol, folder, mvtec
from padim_bench.data.datasets import official_split
from padim_bench.data.decoding import IMAGE_FORMATS
from padim_bench.data.listing import IMAGE_SUFFIXES
from padim_bench.data.loading import load_category, sample_name, split_digest
from padim_bench.data.mvtec import list_categories, looks_normal
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Category
from padim_bench.errors import DataWarning

SMALL = Protocol.of("small", resize=16, crop=12)


def draw(*paths: Path) -> None:
    """An image at each path; in ground_truth and masks a mask."""
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), dtype=np.uint8)
        if {"ground_truth", "masks"} & set(path.parts):
            pixels = np.pad(np.full((3, 3), 255, dtype=np.uint8), (2, 3))
        Image.fromarray(pixels).save(path)


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def make(root: Path, name: str = "part", *, good: str = "good", masks: bool = True) -> Path:
    """A category of two training images, one normal test image and one with a defect."""
    base = root / name
    draw(*(base / "train" / good / f"00{i}.png" for i in range(2)))
    draw(base / "test" / good / "000.png", base / "test" / "dent" / "000.png")
    if masks:
        draw(base / "ground_truth" / "dent" / "000_mask.png")
    return base


def notes_of(base: Path, **options: object) -> tuple[str, ...]:
    """The notes of a category, each of which must have been warned of as well."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found: Category = mvtec(base.parent, base.name, **options)  # type: ignore[arg-type]
    assert [str(w.message) for w in said if w.category is DataWarning] == [f"{base.name}: {n}" for n in found.notes]
    assert all("\n" not in note for note in found.notes)
    return found.notes


def refusal_of(base: Path, **options: object) -> str:
    with pytest.raises(PadimBenchError) as raised:
        mvtec(base.parent, base.name, **options)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Labels.


@pytest.mark.parametrize(
    "name",
    ["Good", "GOOD", "goods", "good_2", "ok", "OK", "o.k.", "normal", "Normal images", "no_defect", "defect-free",
     "NonDefective", "test_good", "iO"],
)  # fmt: skip
@pytest.mark.parametrize("masks", [True, False])
def test_a_test_folder_called_as_normal_images_are_is_refused_with_the_mend(
    name: str, masks: bool, tmp_path: Path
) -> None:
    base = make(tmp_path, masks=masks)
    (base / "test" / "good").rename(base / "test" / name)
    refusal = refusal_of(base)
    assert str(base / "test" / name) in refusal
    assert f"--normal {name} " in refusal


@pytest.mark.parametrize("name", ["dent", "not_good", "no good", "ng", "bad", "NOK", "broken_large", "okra", "0", "-"])
def test_names_of_defects_do_not_look_normal(name: str) -> None:
    assert not looks_normal(name)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("asked", ["Good", "good", ["GOOD"], ["ok", "good"]])
def test_folders_named_as_normal_are_normal_in_any_case(asked: str | list[str], masks: bool, tmp_path: Path) -> None:
    base = make(tmp_path, good="Good", masks=masks)
    category = mvtec(tmp_path, "part", normal=asked)
    assert len(category.train) == 2
    assert [(s.image.parent.name, s.label) for s in category.test] == [("Good", 0), ("dent", 1)]
    assert category.notes == ("normal as asked for by name: test/Good, train/Good",)
    assert category.normal == ((asked,) if isinstance(asked, str) else tuple(asked))
    assert load_category(category, SMALL).labels.tolist() == [0, 1]
    assert list_categories(base.parent, normal=category.normal) == ["part"]


def test_several_folders_may_be_normal(tmp_path: Path) -> None:
    base = make(tmp_path)
    draw(base / "test" / "ok" / "000.png", base / "train" / "ok" / "007.png")
    assert "--normal good,ok" in refusal_of(base)
    category = mvtec(tmp_path, "part", normal=["good", "ok"])
    assert [s.label for s in category.test] == [1, 0, 0]
    assert len(category.train) == 3
    shutil.rmtree(base / "ground_truth")
    assert [s.label for s in mvtec(tmp_path, "part", normal="good").test] == [1, 0, 1]


def test_a_training_folder_by_another_name_is_refused_with_the_mend(tmp_path: Path) -> None:
    base = make(tmp_path)
    (base / "train" / "good").rename(base / "train" / "Good")
    assert list_categories(tmp_path) == ["part"]
    refusal = refusal_of(base)
    assert str(base / "train" / "Good") in refusal
    assert "--normal Good" in refusal


def test_training_images_of_other_folders_are_left_out_and_said(tmp_path: Path) -> None:
    base = make(tmp_path)
    draw(base / "train" / "dent" / "000.png", base / "train" / "dent" / "001.png")
    (note,) = notes_of(base)
    assert note == "left out 1: folder of train that is not of normal images: 1 (train/dent/ with 2 images)"


def test_a_test_without_any_normal_image_is_said(tmp_path: Path) -> None:
    base = make(tmp_path, masks=False)
    (base / "test" / "good").rename(base / "test" / "buenas")
    (note,) = notes_of(base)
    assert note.startswith("no normal test image in test/good, all are anomalous (buenas, dent)")
    assert "--normal" in note


# Which dataset it is.


def official(root: Path, name: str) -> Path:
    """As many files as MVTec AD has, of zero bytes: listing reads none."""
    counts = MVTEC_AD[name]
    base = root / name
    touch(*(base / "train" / "good" / f"{i:03}.png" for i in range(counts.train)))
    touch(*(base / "test" / "good" / f"{i:03}.png" for i in range(counts.test - counts.masks)))
    touch(*(base / "test" / "dent" / f"{i:03}.png" for i in range(counts.masks)))
    return base


def test_mvtec_ad_is_known_by_its_numbers_of_images(tmp_path: Path) -> None:
    base = official(tmp_path / "any", "toothbrush")
    category = mvtec(tmp_path / "any", "toothbrush")
    assert (category.dataset, category.kind, official_split(category)) == ("mvtec-ad", "object", True)
    for i in range(MVTEC_AD["toothbrush"].masks):
        touch(base / "ground_truth" / "dent" / f"{i:03}_mask.png")
    assert mvtec(tmp_path / "any", "toothbrush").dataset == "mvtec-ad"


@pytest.mark.parametrize("change", ["train/good/000.png", "test/good/000.png", "test/dent/000.png"])
def test_a_category_of_other_numbers_is_of_the_dataset_that_its_folder_names(change: str, tmp_path: Path) -> None:
    base = official(tmp_path / "mine", "toothbrush")
    (base / change).unlink()
    category = mvtec(tmp_path / "mine", "toothbrush")
    assert (category.dataset, category.kind, official_split(category)) == ("mine", "", None)


def test_a_normal_image_for_an_anomalous_one_is_not_mvtec_ad(tmp_path: Path) -> None:
    base = official(tmp_path / "mine", "toothbrush")
    (base / "test" / "dent" / "000.png").rename(base / "test" / "good" / "999.png")
    assert mvtec(tmp_path / "mine", "toothbrush").dataset == "mine"


def test_a_user_may_say_that_it_is_mvtec_ad_and_its_numbers_are_still_judged(tmp_path: Path) -> None:
    make(tmp_path, "bottle")
    category = mvtec(tmp_path, "bottle", dataset="mvtec-ad")
    assert (category.dataset, category.kind, official_split(category)) == ("mvtec-ad", "object", False)
    base = make(tmp_path, "part")
    assert "mvtec-ad has no category 'part'" in refusal_of(base, dataset="mvtec-ad")


@pytest.mark.parametrize("name", ["mvtec-ad", "demo", "stc"])
def test_the_name_of_a_folder_makes_no_dataset_that_is_known(name: str, tmp_path: Path) -> None:
    make(tmp_path / name, "bottle")
    make(tmp_path / name, "weave")
    for category in ("bottle", "weave"):
        assert mvtec(tmp_path / name, category).dataset == f"{name} (folder)"


def test_a_category_of_the_demos_names_is_the_demo_only_if_it_was_drawn_as_such(tmp_path: Path) -> None:
    base = make(tmp_path / "mine", "weave")
    assert mvtec(tmp_path / "mine", "weave").dataset == "mine"
    (base / "demo.json").write_text("{}")
    assert (mvtec(tmp_path / "mine", "weave").dataset, mvtec(tmp_path / "mine", "weave").kind) == ("demo", "texture")


# What is left out.


def test_a_link_to_nothing_called_like_a_folder_of_the_layout_is_left_out(tmp_path: Path) -> None:
    draw(*(tmp_path / "part" / name for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png")))
    (tmp_path / "part" / "Test").symlink_to(tmp_path / "nowhere")
    with pytest.warns(DataWarning, match="left out 1: .*Test"):
        mvtec(tmp_path, "part")


def test_images_of_every_suffix_that_is_read_are_read(tmp_path: Path) -> None:
    base = make(tmp_path)
    for i, suffix in enumerate(["jfif", "pgm", "ppm", "pnm", "gif", "jp2", "JPG", "tif", "webp", "avif"]):
        draw(base / "train" / "good" / f"1{i:02}.{suffix}")
    category = mvtec(tmp_path, "part")
    assert (len(category.train), category.notes) == (12, ())
    assert len(load_category(category, SMALL).train) == 12


def test_every_suffix_of_a_format_that_is_read_is_listed_and_no_other() -> None:
    Image.init()
    of_formats = {suffix for suffix, name in Image.registered_extensions().items() if name in IMAGE_FORMATS}
    assert of_formats <= IMAGE_SUFFIXES
    assert {s for s in IMAGE_SUFFIXES if Image.registered_extensions().get(s, "none") not in IMAGE_FORMATS} <= {
        suffix for suffix in IMAGE_SUFFIXES if suffix not in Image.registered_extensions()
    }


def test_what_is_left_out_is_counted_and_named_by_reason_in_one_line(tmp_path: Path) -> None:
    base = make(tmp_path)
    touch(*(base / "train" / "good" / f"{i}.txt" for i in range(5)))
    (base / "test" / "dent" / "001.png").symlink_to("/nowhere/image.png")
    os.mkfifo(base / "train" / "good" / "pipe.png")
    draw(base / "test" / "dent" / "batch2" / "000.png", base / "test" / "dent" / "batch2" / "deep" / "001.png")
    draw(base / "ground_truth" / "dent" / "001_mask.png", base / "ground_truth" / "hole" / "000_mask.png")
    draw(base / "ground_truth" / "good" / "000_mask.png", base / "train" / "004.png", base / "cover.png")
    draw(base / "validation" / "good" / "000.png")
    touch(base / "license.txt", base / "readme.txt")
    (note,) = notes_of(base)
    assert note.startswith("left out 14: ")
    assert set(note.removeprefix("left out 14: ").split("; ")) == {
        "no image format that is read: 5 (train/good/0.txt, train/good/1.txt, train/good/2.txt and 2 more)",
        "link to nothing: 1 (test/dent/001.png)",
        "no plain file: 1 (train/good/pipe.png)",
        "folder in a folder of images: 1 (test/dent/batch2/ with 2 images)",
        "mask without an image: 1 (ground_truth/dent/001_mask.png)",
        "folder of masks without a folder of images: 1 (ground_truth/hole/ with 1 image)",
        "mask of a normal image: 1 (ground_truth/good/000_mask.png)",
        "beside the folders of train: 1 (train/004.png)",
        "not in a folder of images: 1 (cover.png)",
        "none of train, test, ground_truth: 1 (validation/ with 1 image)",
    }


def test_what_systems_leave_behind_is_nobodys_data_and_not_said(tmp_path: Path) -> None:
    base = make(tmp_path)
    before = mvtec(tmp_path, "part")
    for place in (tmp_path, base, base / "train", base / "train" / "good", base / "test", base / "test" / "dent",
                  base / "ground_truth", base / "ground_truth" / "dent"):  # fmt: skip
        touch(place / "._000.png", place / ".DS_Store", place / "Thumbs.db", place / "desktop.ini")
        draw(place / "__MACOSX" / "000.png", place / "@eaDir" / "000.png", place / "lost+found" / "000.png")
    make(tmp_path, "__MACOSX")
    assert notes_of(base) == ()
    assert mvtec(tmp_path, "part") == before
    assert list_categories(tmp_path) == ["part"]


def test_a_folder_of_another_kind_beside_the_categories_is_said(tmp_path: Path) -> None:
    make(tmp_path)
    draw(tmp_path / "loose" / "train" / "images" / "000.png")
    (tmp_path / "docs").mkdir()
    with pytest.warns(DataWarning, match="no category, for want of a folder train/good: loose"):
        assert list_categories(tmp_path) == ["part"]


def test_masks_called_otherwise_than_the_layout_says_are_left_out_and_said(tmp_path: Path) -> None:
    base = make(tmp_path)
    (base / "ground_truth").rename(base / "Ground Truth")
    assert notes_of(base) == ("left out 1: none of train, test, ground_truth: 1 (Ground Truth/ with 1 image)",)
    shutil.rmtree(base / "Ground Truth")
    (base / "ground_truth").symlink_to("/nowhere")
    assert notes_of(base) == ("left out 1: not in a folder of images: 1 (ground_truth)",)


@pytest.mark.parametrize(
    ("images", "masks", "said"),
    [
        (["000.png", "000.jpg"], ["000_mask.png"], "would share a mask"),
        (["000.png"], ["000_mask.png", "000_mask.bmp"], "are masks of one image"),
        (["000.png"], ["000.png", "000_mask.png"], "are masks of one image"),
        (["000.png", "000_mask.png"], ["000_mask.png"], "move it to ground_truth"),
    ],
)
def test_masks_in_doubt_are_refused(images: list[str], masks: list[str], said: str, tmp_path: Path) -> None:
    base = make(tmp_path)
    draw(*(base / "test" / "dent" / name for name in images))
    draw(*(base / "ground_truth" / "dent" / name for name in masks))
    refusal = refusal_of(base)
    assert said in refusal
    assert str(tmp_path) in refusal


def test_images_of_one_stem_need_no_masks_to_be_trained_on(tmp_path: Path) -> None:
    base = make(tmp_path)
    draw(base / "train" / "good" / "000.jpg", base / "test" / "good" / "000.jpg")
    assert len(mvtec(tmp_path, "part").train) == 3


def test_plain_folders_say_what_they_leave_out(tmp_path: Path) -> None:
    draw(*(tmp_path / "normal" / f"{i}.png" for i in range(6)), tmp_path / "anomalous" / "a.png")
    draw(tmp_path / "masks" / "a.png", tmp_path / "masks" / "b.png", tmp_path / "normal" / "more" / "7.png")
    draw(tmp_path / "extra" / "8.png")
    touch(tmp_path / "anomalous" / "a.txt", tmp_path / "readme.txt")
    with pytest.warns(DataWarning) as warned:
        category = folder(tmp_path)
    (note,) = category.notes
    assert [str(w.message) for w in warned] == [f"{tmp_path.name}: {note}"]
    assert note == (
        "left out 4: folder in a folder of images: 1 (normal/more/ with 1 image); no image format that is read: 1 "
        "(anomalous/a.txt); none of normal, normal_test, anomalous, masks: 1 (extra/ with 1 image); mask without an "
        "image: 1 (masks/b.png)"
    )
    draw(tmp_path / "anomalous" / "a.jpg")
    with pytest.raises(PadimBenchError, match="would share a mask"):
        folder(tmp_path)


# Names that are no Unicode.


@pytest.mark.skipif(sys.platform != "linux", reason="names are no bytes here")
def test_names_that_are_no_unicode_are_read_and_spelled_alike_everywhere(tmp_path: Path) -> None:
    odd = os.fsdecode(b"gro\xdf")
    base = make(tmp_path / odd, odd)
    draw(base / "train" / "good" / f"{odd}.png", base / "test" / "dent" / f"{odd}.png", base / "test" / odd / "0.png")
    draw(base / "ground_truth" / "dent" / f"{odd}_mask.png", base / "ground_truth" / odd / "0_mask.png")
    touch(base / "train" / "good" / f"{odd}.txt")
    assert list_categories(tmp_path / odd) == ["gro\\xdf"]
    with pytest.warns(DataWarning, match=r"train/good/gro\\xdf\.txt"):
        category = mvtec(tmp_path / odd, "gro\\xdf")
    for text in (category.dataset, category.name, *category.notes, *(s.defect for s in category.test)):
        text.encode()
    assert (category.dataset, category.name) == ("gro\\xdf", "gro\\xdf")
    loaded = load_category(category, SMALL)
    assert loaded.split_digest == split_digest(category)
    assert "gro\\xdf/train/good/gro\\xdf.png" in [sample_name(category, s) for s in category.train]
    with pytest.warns(DataWarning):
        assert mvtec(tmp_path / odd, odd) == category
