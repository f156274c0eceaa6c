"""ShanghaiTech Campus (the paper's Table IV): clips of fixed cameras, one scene each, read frame by frame.

The layout is the official one, below a folder that holds ``training`` and ``testing``::

    training/videos/01_001.avi            or frames, extracted to training/frames/01_001/000.jpg ...
    testing/frames/01_0014/000.jpg ...    or testing/videos/01_0014.avi
    testing/test_pixel_mask/01_0014.npy   (T, H, W), non-zero where anomalous
    testing/test_frame_mask/01_0014.npy   (T,), non-zero where anomalous; may be absent

A clip's scene is its name up to the underscore. Frames that lie there as files are preferred to the
video: they are the same pixels everywhere, while those of a video are as the FFmpeg at hand decodes it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.listing import LeftOut, entries, is_file, is_folder, list_images, spelled
from padim_bench.data.mvtec import check_root
from padim_bench.data.transforms import decode_image, prepare_image, prepare_mask, read_bytes
from padim_bench.errors import DataWarning, PadimBenchError
from padim_bench.protocols import Protocol

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".mov"}


@dataclass(frozen=True)
class Clip:
    """One clip: ``source`` is a video file or a folder of frames; only test clips have the other two."""

    name: str
    source: Path
    pixel_masks: Path | None = None
    frame_labels: Path | None = None


@dataclass(frozen=True)
class Scene:
    """The clips of one camera. ``root`` is the folder that holds ``training`` and ``testing``."""

    name: str
    root: Path
    train: tuple[Clip, ...]
    test: tuple[Clip, ...]


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a clip, prepared as a protocol says, S = ``protocol.size``.

    Attributes:
        clip, index: the clip's name and the frame's place in it, counted from 0.
        image: (3, S, S) uint8 RGB.
        mask: (S, S) bool, or None for a clip without pixel masks.
        label: 1 if the frame is anomalous: as the frame labels say, else if any pixel is, as stored.
        size: width and height as stored, "856x480".
    """

    clip: str
    index: int
    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    label: int
    size: str


def list_scenes(root: Path | str) -> list[str]:
    """Names of the scenes with training and test clips, sorted; official scene 13 has no test clip.

    Raises PadimBenchError if ``root`` is no such tree or holds no such scene.
    """
    base = _base(root)
    train, test = ({_scene_of(name) for name in _sources(base / part)} for part in ("training", "testing"))
    if not train & test:
        raise PadimBenchError(
            f"{base} holds no scene with clips in both training and testing: put videos such as "
            "training/videos/01_001.avi and frames such as testing/frames/01_0014/000.jpg there"
        )
    return sorted(train & test)


def stc(root: Path | str, scene: str) -> Scene:
    """One scene of a tree in the official layout, its clips sorted by name.

    Raises:
        PadimBenchError: no such tree or scene, no training or no test clip, or a missing pixel mask.
    """
    base = _base(root)
    left_out = LeftOut(base)
    train, test = (
        [Clip(name, path) for name, path in _sources(base / part, left_out).items() if _scene_of(name) == scene]
        for part in ("training", "testing")
    )
    if not train and not test:
        raise PadimBenchError(f"no scene {scene!r} in {base}: it holds {', '.join(list_scenes(base))}")
    for clips, part in ((train, "training"), (test, "testing")):
        if not clips:
            raise PadimBenchError(
                f"no {part} clip of scene {scene} in {base / part / 'videos'} or {base / part / 'frames'}: "
                "put one there or choose another scene"
            )
    for note in left_out.notes():
        warnings.warn(DataWarning(f"{root}: {note}"), stacklevel=2)
    return Scene(scene, base, tuple(train), tuple(_with_truth(clip, base / "testing") for clip in test))


def read_frames(clip: Clip, protocol: Protocol, *, every: int = 1) -> Iterator[Frame]:
    """Frames 0, ``every``, 2 * ``every``, ... of ``clip``, decoded one at a time as they are asked for.

    What is wrong with a video may thus show only after its last good frame has been given.

    Raises:
        PadimBenchError: ``every`` < 1; frames, video or masks that cannot be read; masks or labels of
            another number of frames than the clip, or masks of another size than its frames.
    """
    if every < 1:
        raise PadimBenchError(f"every is {every} for clip {clip.name}: choose 1 (all frames) or more")
    return _read(clip, protocol, every)


def count_frames(clip: Clip) -> int:
    """The number of frames of ``clip``: of its files, or as its video states.

    A video that states none is decoded. Where a camera dropped frames, a video may state more than it
    yields. Raises PadimBenchError if there is no frame or the video cannot be read.
    """
    if clip.source.is_dir():
        return len(_frame_files(clip.source))
    av = _pyav(clip.source)
    try:
        with av.open(str(clip.source), metadata_errors="replace") as container:
            stated = int(_video_stream(container, clip.source).frames)
    except av.error.FFmpegError as error:
        raise _bad_video(clip.source, error.strerror) from error
    return stated or sum(1 for _ in _decode(clip.source))


def scene_digest(scene: Scene) -> str:
    """sha256 over the relative names and the contents of all files of all clips, wherever ``scene.root`` is.

    Raises PadimBenchError, naming the file, when one cannot be read.
    """

    def lines(clips: tuple[Clip, ...]) -> list[str]:
        files: list[Path] = []
        for clip in clips:
            files += _frame_files(clip.source) if clip.source.is_dir() else [clip.source]
            files += [path for path in (clip.pixel_masks, clip.frame_labels) if path is not None]
        return sorted(f"{spelled(path.relative_to(scene.root).as_posix())} {_file_digest(path)}\n" for path in files)

    return hashlib.sha256("".join([*lines(scene.train), "test\n", *lines(scene.test)]).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:  # in blocks: a clip's masks alone may take hundreds of MB
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PadimBenchError(f"cannot read {path}: {error.strerror}: check the file and its permissions") from error


# The tree.


def _base(root: Path | str) -> Path:
    root = check_root(Path(root))
    for base in (root, root / "shanghaitech"):
        if is_folder(base / "training") and is_folder(base / "testing"):
            return base
    raise PadimBenchError(
        f"{root} is not in the layout of ShanghaiTech Campus: give the folder that holds its training and testing"
    )


def _scene_of(name: str) -> str:
    """The "01" of "01_001"; empty for what is not named as a clip is."""
    scene, _, rest = name.partition("_")
    return scene if rest else ""


def _sources(part: Path, left_out: LeftOut | None = None) -> dict[str, Path]:
    """Where each clip of ``training`` or ``testing`` is read from, by name; the rest is added to ``left_out``."""
    found: dict[str, Path] = {}
    for path in entries(part / "videos"):
        is_video = path.suffix.lower() in VIDEO_SUFFIXES and is_file(path)
        if is_video and path.stem not in found:
            found[path.stem] = path
        elif left_out is not None:
            left_out.add(path, "second video of a clip" if is_video else "no video that is read")
    for path in entries(part / "frames"):
        if is_folder(path):
            found[path.name] = path
        elif left_out is not None:
            left_out.add(path, "no folder of frames")
    if left_out is not None:
        for name in (name for name in found if not _scene_of(name)):
            left_out.add(found[name], "not called as clips are, 01_001")
    return {name: found[name] for name in sorted(found) if _scene_of(name)}


def _with_truth(clip: Clip, testing: Path) -> Clip:
    masks, labels = (testing / kind / f"{clip.name}.npy" for kind in ("test_pixel_mask", "test_frame_mask"))
    if not is_file(masks):
        raise PadimBenchError(f"no pixel masks for test clip {clip.source}: expected {masks}, as the data set has it")
    return Clip(clip.name, clip.source, masks, labels if is_file(labels) else None)


def _frame_number(path: Path) -> list[str | int]:
    """A key that puts "2.jpg" before "10.jpg"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.stem)]


def _frame_files(folder: Path) -> list[Path]:
    paths = sorted(list_images(folder), key=lambda path: (_frame_number(path), path.name))
    if not paths:
        raise PadimBenchError(f"no frame in {folder}: extract the clip's frames there, as 000.jpg and so on")
    for one, other in pairwise(paths):
        if _frame_number(one) == _frame_number(other):
            raise PadimBenchError(f"{one} and {other.name} are the same frame: delete one of them")
    return paths


# Frames.


def _read(clip: Clip, protocol: Protocol, every: int) -> Iterator[Frame]:
    masks = None if clip.pixel_masks is None else _load(clip.pixel_masks, 3)
    labels = None if clip.frame_labels is None else _load(clip.frame_labels, 1)
    truths = {path: len(a) for path, a in ((clip.pixel_masks, masks), (clip.frame_labels, labels)) if a is not None}
    for index, image in _images(clip, protocol, every, truths):
        size, mask, label = f"{image.width}x{image.height}", None, 0
        if masks is not None:
            if masks.shape[1:] != (image.height, image.width):
                raise PadimBenchError(
                    f"{clip.pixel_masks} has masks of {masks.shape[2]}x{masks.shape[1]} but frame {index} of "
                    f"{clip.source} is {size}: save the masks at the frames' size"
                )
            truth = _binary(masks[index], clip.pixel_masks, index)
            mask, label = prepare_mask(truth, protocol), int(truth.any())
        if labels is not None:
            label = int(_binary(labels[index], clip.frame_labels, index))
        yield Frame(clip.name, index, prepare_image(image, protocol), mask, label, size)


def _binary(truth: NDArray[Any], path: Path | None, index: int) -> NDArray[np.bool_]:
    """Where the ground truth of a frame is not 0. Raises PadimBenchError, naming the file, for NaN and below 0."""
    if not (truth >= 0).all():
        what = "NaN" if np.isnan(truth).any() else "negative values"
        raise PadimBenchError(f"{path} has {what} for frame {index}: save it as 0 (normal) and 1 (anomalous)")
    return np.asarray(truth != 0)


def _load(path: Path, ndim: int) -> NDArray[Any]:
    """The array of an .npy file, left on disk until it is indexed."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise PadimBenchError(f"cannot read {path}: {error.strerror}: check the file and its permissions") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:  # numpy's own text advises to unpickle
        why = "it is truncated, pickled or of another kind: fetch it again or save it with numpy.save"
        raise PadimBenchError(f"{path} is no array of numbers: {why}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or array.ndim != ndim:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        wanted = "(frames, height, width)" if ndim == 3 else "(frames,)"
        raise PadimBenchError(f"{path} holds {found}: save it as one numeric or bool array {wanted}")
    return array


def _images(
    clip: Clip, protocol: Protocol, every: int, truths: dict[Path | None, int]
) -> Iterator[tuple[int, Image.Image]]:
    """(index, image) of every ``every``-th frame; ``truths`` are the lengths that the clip must have."""

    def check(count: int) -> None:
        for path, length in truths.items():
            if length != count:
                raise PadimBenchError(
                    f"{path} is of {length} frames but clip {clip.source} has {count}: "
                    "fetch or extract the clip and its masks again"
                )

    if clip.source.is_dir():
        paths = _frame_files(clip.source)
        check(len(paths))
        for index in range(0, len(paths), every):
            yield index, decode_image(read_bytes(paths[index]), paths[index], protocol)
        return
    # What a video states is not always what it yields, so that only its end tells whether the lengths fit.
    count, end = 0, min(truths.values(), default=sys.maxsize)
    for frame in _decode(clip.source):
        if count % every == 0 and count < end:
            yield count, frame.to_image()
        count += 1
    check(count)


# Video. PyAV is optional, even to the type checker: what comes from it is Any.


def _frames_folder(video: Path) -> Path:
    return video.parent.parent / "frames" / video.stem


def _pyav(video: Path, otherwise: str = "") -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        otherwise = otherwise or f"extract the frames to {_frames_folder(video)}"
        raise PadimBenchError(f"{video} needs PyAV: pip install 'padim-bench[video]', or {otherwise}") from error


def _bad_video(video: Path, why: str) -> PadimBenchError:
    mend = f"fetch it again, or extract its frames to {_frames_folder(video)}"
    return PadimBenchError(f"corrupt or truncated video {video} ({why}): {mend}")


def _video_stream(container: Any, video: Path) -> Any:
    if not container.streams.video:
        raise _bad_video(video, "no video stream")
    if container.streams.video[0].codec_context is None:
        raise _bad_video(video, "PyAV has no decoder for it")
    return container.streams.video[0]


def _decode(video: Path) -> Iterator[Any]:
    """The video's frames (av.VideoFrame) in the order in which they are shown, timestamps disregarded."""
    av = _pyav(video)
    count, first, end = 0, None, 0
    try:
        with av.open(str(video), metadata_errors="replace") as container:
            stream = _video_stream(container, video)
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise _bad_video(video, f"damaged after {count} frames")
                if packet.dts is not None:
                    first, end = packet.dts if first is None else first, packet.dts + (packet.duration or 0)
                for frame in packet.decode():
                    count += 1
                    yield frame
            # FFmpeg takes a file that was cut between two frames for a whole one. A length that is stated may
            # include frames that the camera dropped, so that a gap counts; up to a second of them may end a clip.
            rate = stream.average_rate or 25
            present = max(count, (end - (first or 0)) * (stream.time_base or 0) * rate)
            missing = float((stream.frames - present) / rate)
    except av.error.FFmpegError as error:
        raise _bad_video(video, error.strerror) from error
    if count == 0:
        raise _bad_video(video, "no frame")
    if missing > 1:
        raise _bad_video(video, f"it ends {missing:.1f} s early, after {count} frames")


# A demo.

_FORMAT = 1  # raise it whenever a pixel of any frame changes
_WIDTH, _HEIGHT = 856, 480
_TRAIN_FRAMES, _TEST_FRAMES = 40, 24
_RUSH = range(8, 18)  # the frames of a test clip that are anomalous


def make_demo_stc(root: Path | str, *, seed: int = 0, video: bool = True) -> Path:
    """Draw a small tree in the official layout at ``root`` (missing or empty) and return ``root``.

    Two scenes in which pedestrians walk, each with two training clips of 40 frames and two test clips of
    24; through one of these a bright box rushes, in frames 8 to 17, which the masks hold exactly.
    Training clips are MPEG-4 videos, or frames, without need of PyAV, where ``video`` is False.
    The tree appears once it is complete, and one that is there already is left as it is.

    Raises:
        PadimBenchError: something else is at ``root``, it cannot be written, or PyAV is missing.
    """
    root, stamp = Path(root), {"demo": "stc", "format": _FORMAT, "seed": seed, "video": video}
    if seed < 0:
        raise PadimBenchError(f"the demo's seed is {seed}: choose a seed of 0 or more")
    try:
        if _is_demo(root, stamp):
            return root
        if video:
            _pyav(root / "training" / "videos" / "01_001.avi", "draw frames alone (video=False)")
        target = root.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".demo-", dir=target.parent) as workshop:
            tree = Path(workshop) / "stc"
            _write_demo(tree, seed, video=video)
            (tree / "demo.json").write_text(json.dumps(stamp) + "\n", encoding="utf-8")
            try:
                tree.rename(target)
            except OSError:
                if not _is_demo(root, stamp):  # another process may have put it in place meanwhile
                    raise
    except OSError as error:
        reason = error.strerror or error
        raise PadimBenchError(f"cannot write the demo data to {root} ({reason}): choose another folder") from error
    return root


def _is_demo(root: Path, stamp: dict[str, object]) -> bool:
    """Whether this very demo is in place; raises where something else is."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / "demo.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        found = None
    if found != stamp:
        raise PadimBenchError(f"{root} holds something else than this demo: choose another folder for the demo data")
    return True


def _write_demo(tree: Path, seed: int, *, video: bool) -> None:
    for scene in (1, 2):
        for clip in (1, 2):
            name, videos = f"{scene:02d}_{clip:03d}", tree / "training" / "videos"
            shots = (shot for shot, _ in _draw(seed, scene, name, _TRAIN_FRAMES, range(0)))
            if video:
                _save_video(videos / f"{name}.avi", shots)
            else:
                _save_frames(_frames_folder(videos / name), shots)
        for clip in (1, 2):
            name, testing = f"{scene:02d}_{clip:04d}", tree / "testing"
            drawn = list(_draw(seed, scene, name, _TEST_FRAMES, _RUSH if clip == 2 else range(0)))
            _save_frames(testing / "frames" / name, (shot for shot, _ in drawn))
            masks = np.stack([mask for _, mask in drawn]).astype(np.uint8)
            for kind, truth in (("test_pixel_mask", masks), ("test_frame_mask", masks.max(axis=(1, 2)))):
                (testing / kind).mkdir(exist_ok=True)
                np.save(testing / kind / f"{name}.npy", truth)


def _draw(
    seed: int, scene: int, clip: str, count: int, rush: range
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """(480, 856, 3) frames and (480, 856) masks. The place is the scene's, what happens there the clip's."""
    place, events = default_rng([seed, scene]), default_rng([seed, scene, zlib.crc32(clip.encode())])
    coarse = Image.fromarray(place.integers(70, 170, (5, 9), dtype=np.uint8)).convert("RGB")
    ground = np.array(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    ground[::40, :] -= 25  # paving, which gives the place edges
    ground[:, ::40] -= 25
    starts, speeds = events.integers(0, _WIDTH, 3), events.choice([-3, -2, 2, 3], 3)
    levels, coats = events.integers(150, 400, 3), events.integers(20, 90, (3, 3))
    level = int(events.integers(150, 400))
    for time in range(count):
        shot, mask = ground.copy(), np.zeros((_HEIGHT, _WIDTH), dtype=np.bool_)
        for start, speed, feet, coat in zip(starts, speeds, levels, coats, strict=True):
            x = int(start + speed * time) % _WIDTH
            shot[feet - 60 : feet, x : x + 20] = coat
        if time in rush:
            x = 40 + 70 * (time - rush.start)
            mask[level - 50 : level, x : x + 60] = True
            shot[mask] = (250, 220, 40)
        shot += events.integers(-4, 5, (_HEIGHT, _WIDTH, 1), dtype=np.int16)
        yield np.clip(shot, 0, 255).astype(np.uint8), mask


def _save_frames(folder: Path, shots: Iterator[NDArray[np.uint8]]) -> None:
    folder.mkdir(parents=True)
    for index, shot in enumerate(shots):
        Image.fromarray(shot).save(folder / f"{index:03d}.jpg", quality=92)


def _save_video(path: Path, shots: Iterator[NDArray[np.uint8]]) -> None:
    av = _pyav(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = _WIDTH, _HEIGHT, "yuv420p", 6_000_000
        for shot in shots:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot, format="rgb24")))
        container.mux(stream.encode(None))
