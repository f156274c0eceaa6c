"""The drawn scenes: a tree that reads as ShanghaiTech Campus does, exact masks, and what they refuse to touch."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from padim_bench import PadimBenchError, Protocol
from padim_bench.data.stc import count_frames, list_scenes, read_frames, scene_digest, stc
from padim_bench.demo.scenes import make_demo_stc

SMALL = Protocol.of("small", resize=32, crop=None)
STC = Protocol.of("stc", crop=None)


def refusal(root: Path, *, seed: int = 0, video: bool = True) -> str:
    """What PadimBenchError says instead of drawing; it must be one line."""
    with pytest.raises(PadimBenchError) as raised:
        make_demo_stc(root, seed=seed, video=video)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_stc(tmp_path_factory.mktemp("stc") / "demo", video=False)


def test_the_demo_is_a_tree_of_two_scenes(demo: Path) -> None:
    assert list_scenes(demo) == ["01", "02"]
    for name in ("01", "02"):
        scene = stc(demo, name)
        assert [count_frames(clip) for clip in (*scene.train, *scene.test)] == [40, 40, 24, 24]
        normal, rushed = ([f.label for f in read_frames(clip, SMALL)] for clip in scene.test)
        assert normal == [0] * 24
        assert rushed == [int(8 <= i < 18) for i in range(24)]
    assert scene_digest(stc(demo, "01")) != scene_digest(stc(demo, "02"))


def test_the_demos_masks_hold_what_is_bright(demo: Path) -> None:
    for frame in read_frames(stc(demo, "01").test[1], STC, every=3):
        assert frame.size == "856x480"
        assert frame.mask is not None
        bright = (frame.image[0] > 200) & (frame.image[2] < 90)
        assert (bright != frame.mask).sum() <= 0.25 * frame.mask.sum()  # resized edges and JPEG


def test_a_demo_in_place_is_left_as_it_is_and_nothing_else_is_overwritten(demo: Path, tmp_path: Path) -> None:
    image = demo / "testing" / "frames" / "01_0001" / "000.jpg"
    written = image.stat().st_mtime_ns
    assert make_demo_stc(demo, video=False) == demo
    assert image.stat().st_mtime_ns == written
    assert str(demo) in refusal(demo, seed=1, video=False)
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path, tmp_path / "file"):
        assert f"{root} holds something else" in refusal(root, video=False)
    assert f"{tmp_path}" in refusal(tmp_path / "file" / "below", video=False)
    assert "seed is -1" in refusal(tmp_path / "new", seed=-1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert not list(demo.parent.glob(".demo-*"))


def test_the_demos_videos_are_its_frames_within_the_codec(demo: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    videos = make_demo_stc(tmp_path)  # an empty folder may be there
    filmed, drawn = (stc(root, "02").train[0] for root in (videos, demo))
    assert filmed.source == tmp_path / "training" / "videos" / "02_001.avi"
    pairs = zip(read_frames(filmed, STC, every=13), read_frames(drawn, STC, every=13), strict=True)
    for one, other in pairs:
        assert np.abs(one.image.astype(int) - other.image).mean() < 4
    assert stc(videos, "02").test[0].name == stc(demo, "02").test[0].name


def test_without_pyav_frames_alone_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert "video=False" in refusal(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
