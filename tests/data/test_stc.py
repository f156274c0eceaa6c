"""ShanghaiTech Campus: the layout, frames from files and from real videos, masks, damage and digests."""

from __future__ import annotations

import shutil
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from padim_bench import PROTOCOLS, PadimBenchError, Protocol
from padim_bench.data.stc import Clip, count_frames, list_scenes, read_frames, scene_digest, stc
from padim_bench.data.transforms import prepare_image, prepare_mask
from padim_bench.errors import DataWarning

WIDTH, HEIGHT = 96, 64
SMALL = Protocol.of("small", resize=32, crop=None)
CROPPED = Protocol.of("cropped", resize=32, crop=24)
STC = Protocol.of("stc", crop=None)

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def message_of(run: Callable[[], object]) -> str:
    """What PadimBenchError says; it must be one line."""
    with pytest.raises(PadimBenchError) as raised:
        run()
    message = str(raised.value)
    assert "\n" not in message
    return message


def shot(index: int, *, square: bool = False) -> tuple[Pixels, Mask]:
    """A grey that tells the frame's number, and a white square that moves with it."""
    pixels, mask = (
        np.full((HEIGHT, WIDTH, 3), (40 + 3 * index) % 256, dtype=np.uint8),
        np.zeros((HEIGHT, WIDTH), dtype=bool),
    )
    if square:
        mask[16:48, 3 * index : 3 * index + 32] = True
        pixels[mask] = 255
    return pixels, mask


def save_frames(folder: Path, count: int, *, name: str = "{:03d}.png", square: bool = False) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(shot(i, square=square)[0]).save(folder / name.format(i))
    return folder


def save_video(path: Path, count: int, *, square: bool = False, times: list[int] | None = None) -> Path:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 4_000_000
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(shot(i, square=square)[0], format="rgb24")
            frame.pts, frame.time_base = (i if times is None else times[i]), Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def save_array(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


def make_tree(root: Path, *scenes: str) -> Path:
    """Per scene one training clip and one test clip, of frames, the latter anomalous from frame 2 on."""
    for scene in scenes or ("01",):
        save_frames(root / "training" / "frames" / f"{scene}_001", 3)
        testing, name = root / "testing", f"{scene}_0014"
        save_frames(testing / "frames" / name, 4, square=True)
        masks = np.stack([shot(i, square=True)[1] for i in range(4)])
        masks[:2] = False
        save_array(testing / "test_pixel_mask" / f"{name}.npy", masks.astype(np.uint8))
        save_array(testing / "test_frame_mask" / f"{name}.npy", np.array([0, 0, 1, 1], dtype=np.int8))
    return root


MASKS, LABELS = "testing/test_pixel_mask/01_0014.npy", "testing/test_frame_mask/01_0014.npy"


def anomalous_clip(root: Path) -> Clip:
    return stc(root, "01").test[0]


# The tree.


def test_scenes_and_clips_are_found_by_name(tmp_path: Path) -> None:
    make_tree(tmp_path, "02", "01", "10")
    save_frames(tmp_path / "training" / "frames" / "01_000", 1)
    assert list_scenes(tmp_path) == ["01", "02", "10"]
    scene = stc(str(tmp_path), "01")
    assert (scene.name, scene.root) == ("01", tmp_path)
    frames = tmp_path / "training" / "frames"
    assert scene.train == (Clip("01_000", frames / "01_000"), Clip("01_001", frames / "01_001"))
    testing = tmp_path / "testing"
    assert scene.test == (
        Clip("01_0014", testing / "frames" / "01_0014", tmp_path / MASKS, tmp_path / LABELS),
    )  # fmt: skip


def test_the_folder_above_shanghaitech_is_the_same_tree(tmp_path: Path) -> None:
    make_tree(tmp_path / "shanghaitech")
    assert stc(tmp_path, "01") == stc(tmp_path / "shanghaitech", "01")
    assert list_scenes(tmp_path) == ["01"]


def test_frames_are_preferred_to_a_video_and_other_files_are_left_out_and_said(tmp_path: Path) -> None:
    make_tree(tmp_path)
    videos = tmp_path / "training" / "videos"
    videos.mkdir()
    for name in ("01_001.avi", "01_002.AVI", "01_002.txt", ".01_003.avi", "notes.avi", "_x.avi", "01_.avi"):
        (videos / name).write_bytes(b"")
    (tmp_path / "training" / "frames" / ".01_009").mkdir()
    (tmp_path / "training" / "frames" / "01_008.jpg").write_bytes(b"")
    (tmp_path / "training" / "lost+found").mkdir()
    with pytest.warns(DataWarning) as warned:
        sources = [clip.source for clip in stc(tmp_path, "01").train]
    assert [str(w.message) for w in warned] == [
        f"{tmp_path}: left out 5: no video that is read: 1 (training/videos/01_002.txt); no folder of frames: 1 "
        "(training/frames/01_008.jpg); not called as clips are, 01_001: 3 (training/videos/01_.avi, "
        "training/videos/_x.avi, training/videos/notes.avi)"
    ]
    assert sources == [tmp_path / "training" / "frames" / "01_001", videos / "01_002.AVI"]
    (tmp_path / "training" / "frames" / "01_001" / "._000.png").write_bytes(b"no image")
    with pytest.warns(DataWarning):
        assert count_frames(stc(tmp_path, "01").train[0]) == 3


def test_a_root_of_another_layout_is_refused(tmp_path: Path) -> None:
    assert f"no such directory: {tmp_path / 'no'}" in message_of(lambda: list_scenes(tmp_path / "no"))
    assert f"{tmp_path} is not in the layout" in message_of(lambda: list_scenes(tmp_path))
    (tmp_path / "training").mkdir()
    assert f"{tmp_path} is not in the layout" in message_of(lambda: stc(tmp_path, "01"))
    (tmp_path / "testing").mkdir()
    assert f"{tmp_path} holds no scene" in message_of(lambda: stc(tmp_path, "01"))


def test_an_unknown_scene_is_refused_with_those_there_are(tmp_path: Path) -> None:
    message = message_of(lambda: stc(make_tree(tmp_path, "01", "02"), "03"))
    assert "'03'" in message
    assert "01, 02" in message


@pytest.mark.parametrize("part", ["training", "testing"])
def test_a_scene_needs_clips_to_train_and_to_test(part: str, tmp_path: Path) -> None:
    make_tree(tmp_path, "01", "13")
    for folder in (tmp_path / part / "frames").glob("13_*"):
        shutil.rmtree(folder)
    message = message_of(lambda: stc(tmp_path, "13"))
    assert f"no {part} clip of scene 13" in message
    assert str(tmp_path / part / "frames") in message
    assert list_scenes(tmp_path) == ["01"]


def test_a_test_clip_needs_pixel_masks(tmp_path: Path) -> None:
    (make_tree(tmp_path) / MASKS).unlink()
    message = message_of(lambda: stc(tmp_path, "01"))
    assert str(tmp_path / MASKS) in message
    assert str(tmp_path / "testing" / "frames" / "01_0014") in message


# Frames from files.


@pytest.mark.parametrize("protocol", [SMALL, CROPPED, STC, PROTOCOLS["paper"]], ids=lambda p: p.name)
def test_frames_are_prepared_as_the_protocol_says(protocol: Protocol, tmp_path: Path) -> None:
    frames = list(read_frames(anomalous_clip(make_tree(tmp_path)), protocol))
    assert [(f.clip, f.index, f.label, f.size) for f in frames] == [
        ("01_0014", i, int(i >= 2), f"{WIDTH}x{HEIGHT}") for i in range(4)
    ]
    for i, frame in enumerate(frames):
        pixels, mask = shot(i, square=True)
        np.testing.assert_array_equal(frame.image, prepare_image(Image.fromarray(pixels), protocol))
        assert frame.mask is not None
        assert (frame.mask.shape, frame.mask.dtype) == ((protocol.size, protocol.size), np.bool_)
        np.testing.assert_array_equal(frame.mask, prepare_mask(mask & (i >= 2), protocol))


def test_training_frames_have_no_mask(tmp_path: Path) -> None:
    frames = list(read_frames(stc(make_tree(tmp_path), "01").train[0], SMALL))
    assert [(f.mask, f.label) for f in frames] == [(None, 0)] * 3


def test_frames_are_sorted_by_number(tmp_path: Path) -> None:
    folder = save_frames(tmp_path / "01_001", 12, name="{}.png")
    greys = [int(f.image[0, 0, 0]) for f in read_frames(Clip("01_001", folder), SMALL)]
    assert greys == [40 + 3 * i for i in range(12)]


@pytest.mark.parametrize("twin", ["1.png", "001.jpg"])
def test_two_files_of_one_frame_are_refused(twin: str, tmp_path: Path) -> None:
    folder = save_frames(tmp_path / "01_001", 3)
    shutil.copy(folder / "001.png", folder / twin)
    message = message_of(lambda: count_frames(Clip("01_001", folder)))
    assert "001.png" in message
    assert twin in message


def test_an_empty_folder_of_frames_is_refused(tmp_path: Path) -> None:
    clip = Clip("01_001", tmp_path)
    for run in (lambda: count_frames(clip), lambda: list(read_frames(clip, SMALL))):
        assert f"no frame in {tmp_path}" in message_of(run)


@pytest.mark.parametrize("every", [0, -1])
def test_every_is_at_least_one(every: int, tmp_path: Path) -> None:
    clip = anomalous_clip(make_tree(tmp_path))
    assert f"every is {every}" in message_of(lambda: read_frames(clip, SMALL, every=every))  # not only when iterated


def test_frames_are_read_only_when_asked_for(tmp_path: Path) -> None:
    folder = save_frames(tmp_path / "01_001", 3)
    (folder / "001.png").write_bytes(b"no image")
    frames = read_frames(Clip("01_001", folder), SMALL)
    assert next(frames).index == 0
    assert str(folder / "001.png") in message_of(lambda: next(frames))
    assert [f.index for f in read_frames(Clip("01_001", folder), SMALL, every=2)] == [0, 2]


# Masks and labels.


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32])
def test_masks_and_labels_may_be_of_any_numeric_type(dtype: type, tmp_path: Path) -> None:
    make_tree(tmp_path)
    before = list(read_frames(anomalous_clip(tmp_path), SMALL))
    for name in (MASKS, LABELS):
        save_array(tmp_path / name, np.asfortranarray(np.load(tmp_path / name).astype(dtype)))
    for frame, expected in zip(read_frames(anomalous_clip(tmp_path), SMALL), before, strict=True):
        assert expected.mask is not None
        assert frame.mask is not None
        np.testing.assert_array_equal(frame.mask, expected.mask)
        assert frame.label == expected.label


def test_labels_come_from_the_frame_labels_or_else_from_the_masks_as_stored(tmp_path: Path) -> None:
    make_tree(tmp_path)
    save_array(tmp_path / LABELS, np.array([1, 0, 0, 1]))
    assert [f.label for f in read_frames(anomalous_clip(tmp_path), SMALL)] == [1, 0, 0, 1]
    (tmp_path / LABELS).unlink()
    corner = np.zeros((4, HEIGHT, WIDTH), dtype=np.uint8)
    corner[1, 0, 0] = 1  # which resizing and cropping lose
    save_array(tmp_path / MASKS, corner)
    frames = list(read_frames(anomalous_clip(tmp_path), CROPPED))
    assert [f.label for f in frames] == [0, 1, 0, 0]
    assert not any(f.mask.any() for f in frames if f.mask is not None)
    without_masks = replace(anomalous_clip(tmp_path), pixel_masks=None)
    assert [(f.label, f.mask) for f in read_frames(without_masks, SMALL)] == [(0, None)] * 4


@pytest.mark.parametrize("name", [MASKS, LABELS])
@pytest.mark.parametrize("count", [3, 5])
def test_another_number_of_masks_than_frames_is_refused(name: str, count: int, tmp_path: Path) -> None:
    make_tree(tmp_path)
    shape = (count, HEIGHT, WIDTH) if name == MASKS else (count,)
    save_array(tmp_path / name, np.zeros(shape, dtype=np.uint8))
    message = message_of(lambda: next(read_frames(anomalous_clip(tmp_path), SMALL)))
    assert f"{tmp_path / name} is of {count} frames" in message
    assert f"{tmp_path / 'testing' / 'frames' / '01_0014'} has 4" in message


@pytest.mark.parametrize("name", [MASKS, LABELS])
@pytest.mark.parametrize(("value", "said"), [(float("nan"), "NaN"), (-1.0, "negative values")])
def test_truth_that_is_neither_normal_nor_anomalous_is_refused(
    name: str, value: float, said: str, tmp_path: Path
) -> None:
    make_tree(tmp_path)
    spoilt = np.load(tmp_path / name).astype(float)
    spoilt[2] = value
    save_array(tmp_path / name, spoilt)
    message = message_of(lambda: list(read_frames(anomalous_clip(tmp_path), SMALL)))
    assert f"{tmp_path / name} has {said} for frame 2" in message


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path)
    save_array(tmp_path / MASKS, np.zeros((4, WIDTH, HEIGHT), dtype=np.uint8))
    message = message_of(lambda: list(read_frames(anomalous_clip(tmp_path), SMALL)))
    assert f"{tmp_path / MASKS} has masks of {HEIGHT}x{WIDTH}" in message
    assert f"is {WIDTH}x{HEIGHT}" in message


def pickle_it(path: Path) -> None:
    np.save(path, np.array([{"a": 1}, None], dtype=object), allow_pickle=True)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def archive(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), np.zeros(4))
    path.with_suffix(".npz").rename(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "pickled": pickle_it,
    "a bare pickle": lambda path: path.write_bytes(b"\x80\x04K\x01."),
    "truncated": truncate,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("0 0 1 1\n"),
    "an archive": archive,
    "a broken archive": lambda path: path.write_bytes(b"PK\x03\x04 and no more"),
    "strings": lambda path: np.save(path, np.array(["0", "1"])),
    "of two dimensions": lambda path: np.save(path, np.zeros((4, 4))),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("name", [MASKS, LABELS])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_masks_that_cannot_be_read_are_named(name: str, damage: Callable[[Path], object], tmp_path: Path) -> None:
    clip = anomalous_clip(make_tree(tmp_path))
    damage(tmp_path / name)
    message = message_of(lambda: list(read_frames(clip, SMALL)))
    assert str(tmp_path / name) in message
    assert "allow_pickle" not in message


# Video.


def test_a_video_gives_the_frames_that_were_drawn(tmp_path: Path) -> None:
    clip = Clip("01_001", save_video(tmp_path / "01_001.avi", 30))
    assert count_frames(clip) == 30
    frames = list(read_frames(clip, SMALL))
    assert [f.index for f in frames] == list(range(30))
    assert {(f.size, f.label, f.mask) for f in frames} == {(f"{WIDTH}x{HEIGHT}", 0, None)}
    for i, frame in enumerate(frames):
        np.testing.assert_allclose(frame.image.mean(axis=(1, 2)), 40 + 3 * i, atol=1.4)  # less than half a frame


@pytest.mark.parametrize("every", [1, 3, 7, 100])
@pytest.mark.parametrize("video", [True, False])
def test_every_kth_frame_is_the_same_as_of_all(every: int, video: bool, tmp_path: Path) -> None:
    source = save_video(tmp_path / "a.avi", 20, square=True) if video else save_frames(tmp_path / "a", 20, square=True)
    frames = list(read_frames(Clip("a", source), SMALL))
    chosen = list(read_frames(Clip("a", source), SMALL, every=every))
    assert [f.index for f in chosen] == list(range(0, 20, every))
    for frame in chosen:
        np.testing.assert_array_equal(frame.image, frames[frame.index].image)


def test_masks_lie_on_the_squares_of_a_test_video(tmp_path: Path) -> None:
    make_tree(tmp_path)
    shutil.rmtree(tmp_path / "testing" / "frames" / "01_0014")
    save_video(tmp_path / "testing" / "videos" / "01_0014.avi", 4, square=True)
    save_array(tmp_path / MASKS, np.stack([shot(i, square=True)[1] for i in range(4)]))
    unchanged_height = Protocol.of("aligned", resize=64, crop=None, image_interpolation="nearest")
    for frame in read_frames(anomalous_clip(tmp_path), unchanged_height):
        assert frame.mask is not None
        rows, columns = np.nonzero(frame.mask)
        assert (rows.min(), rows.max()) == (16, 47)
        assert abs(columns.min() - frame.index * 2) <= 1  # 96 columns became 64
        bright = frame.image.mean(axis=0) > 150
        assert (bright != frame.mask).sum() <= 2 * (32 + 22)  # within a pixel of the edge


def test_a_video_decodes_only_what_is_asked_for(tmp_path: Path) -> None:
    video = save_video(tmp_path / "a.avi", 40, square=True)
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    frames = read_frames(Clip("a", video), SMALL)
    assert next(frames).index == 0
    assert str(video) in message_of(lambda: list(frames))


def test_memory_does_not_grow_with_the_clip(tmp_path: Path) -> None:
    clip = Clip("a", save_video(tmp_path / "a.avi", 60))
    next(read_frames(clip, SMALL))  # imports and caches
    tracemalloc.start()
    for _ in read_frames(clip, SMALL):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * WIDTH * HEIGHT * 3


@pytest.mark.parametrize("count", [3, 6])
@pytest.mark.parametrize("every", [1, 2])
def test_a_video_of_another_number_of_frames_than_its_masks_is_refused(count: int, every: int, tmp_path: Path) -> None:
    make_tree(tmp_path)
    video = save_video(tmp_path / "01_0014.avi", count, square=True)
    clip = replace(anomalous_clip(tmp_path), source=video)
    message = message_of(lambda: list(read_frames(clip, SMALL, every=every)))
    assert f"is of 4 frames but clip {video} has {count}" in message


def start_of_frame(content: bytes, index: int) -> int:
    """Where the chunk of frame ``index`` begins in an AVI file."""
    chunk = content.index(b"movi") + 4
    for _ in range(index):
        size = int.from_bytes(content[chunk + 4 : chunk + 8], "little")
        chunk += 8 + size + size % 2
    return chunk


@pytest.mark.parametrize("part", ["nothing", "half a header", 0, 1, 20, 39])
def test_a_truncated_video_is_named_with_where_frames_would_be_looked_for(part: str | int, tmp_path: Path) -> None:
    video = save_video(tmp_path / "training" / "videos" / "01_001.avi", 40, square=True)
    content = video.read_bytes()
    # Within that frame, 12 bytes into its data.
    ends = {"nothing": 0, "half a header": 100}
    video.write_bytes(content[: ends[part] if isinstance(part, str) else start_of_frame(content, part) + 20])
    message = message_of(lambda: list(read_frames(Clip("01_001", video), SMALL)))
    assert f"corrupt or truncated video {video}" in message
    assert str(tmp_path / "training" / "frames" / "01_001") in message


def test_a_video_cut_between_two_frames_is_truncated(tmp_path: Path) -> None:
    video = save_video(tmp_path / "a.avi", 80)
    content = video.read_bytes()
    video.write_bytes(content[: start_of_frame(content, 30)])
    message = message_of(lambda: list(read_frames(Clip("a", video), SMALL)))
    assert f"corrupt or truncated video {video}" in message
    assert "2.1 s early, after 30 frames" in message


def test_frames_that_the_camera_dropped_are_no_truncation(tmp_path: Path) -> None:
    times = [*range(10), *range(60, 70)]
    clip = Clip("a", save_video(tmp_path / "a.avi", 20, times=times))
    assert [f.index for f in read_frames(clip, SMALL)] == list(range(20))


@pytest.mark.parametrize("content", [b"no video", b"RIFF" * 4000])
def test_a_file_that_is_no_video_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.avi").write_bytes(content)
    for run in (count_frames, lambda c: list(read_frames(c, SMALL))):
        assert str(tmp_path / "a.avi") in message_of(lambda run=run: run(Clip("a", tmp_path / "a.avi")))  # type: ignore[misc]


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    for run in (lambda: count_frames(Clip("a", path)), lambda: list(read_frames(Clip("a", path), SMALL))):
        message = message_of(run)
        assert str(path) in message
        assert "no video stream" in message


def test_a_video_that_states_no_length_is_counted_by_decoding(tmp_path: Path) -> None:
    assert count_frames(Clip("a", save_video(tmp_path / "a.mkv", 13))) == 13


def test_without_pyav_a_video_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    clip = Clip("01_001", tmp_path / "training" / "videos" / "01_001.avi")
    for run in (lambda: count_frames(clip), lambda: list(read_frames(clip, SMALL))):
        message = message_of(run)
        assert f"{clip.source} needs PyAV: pip install 'padim-bench[video]'" in message
        assert f"extract the frames to {tmp_path / 'training' / 'frames' / '01_001'}" in message
    assert len(list(read_frames(anomalous_clip(make_tree(tmp_path / "tree")), SMALL))) == 4


# Digests.


def digest(root: Path) -> str:
    return scene_digest(stc(root, "01"))


def test_the_digest_does_not_depend_on_where_the_tree_is_or_on_other_scenes(tmp_path: Path) -> None:
    make_tree(tmp_path / "here")
    make_tree(tmp_path / "there" / "shanghaitech", "01", "02")
    assert digest(tmp_path / "here") == digest(tmp_path / "there")
    scene = stc(tmp_path / "there", "02")
    assert scene_digest(scene) != digest(tmp_path / "here")


FILES = ["training/frames/01_001/002.png", "testing/frames/01_0014/000.png", "training/videos/01_002.avi"]


@pytest.mark.parametrize("name", [*FILES, MASKS, LABELS])
def test_the_digest_changes_with_every_file(name: str, tmp_path: Path) -> None:
    path = make_tree(tmp_path) / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    before = digest(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert digest(tmp_path) != before


def test_the_digest_changes_with_a_name_and_names_what_cannot_be_read(tmp_path: Path) -> None:
    make_tree(tmp_path)
    before = digest(tmp_path)
    frames = tmp_path / "training" / "frames" / "01_001"
    (frames / "002.png").rename(frames / "003.png")
    assert digest(tmp_path) != before
    scene = stc(tmp_path, "01")
    (tmp_path / LABELS).unlink()
    assert str(tmp_path / LABELS) in message_of(lambda: scene_digest(scene))
