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
import re
import sys
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.listing import LeftOut, entries, is_file, is_folder, list_images, spelled
from padim_bench.data.mvtec import check_root
from padim_bench.data.transforms import decode_image, prepare_image, prepare_mask, read_bytes
from padim_bench.data.video import count_video_frames, decode_video
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
    return count_video_frames(clip.source)


def scene_files(scene: Scene) -> list[Path]:
    """All files of all clips. Raises PadimBenchError for a clip without frames."""
    return [path for clip in (*scene.train, *scene.test) for path in _clip_files(clip)]


def scene_digest(scene: Scene) -> str:
    """sha256 over the relative names and the contents of all files of all clips, wherever ``scene.root`` is.

    Raises PadimBenchError, naming the file, when one cannot be read.
    """

    def lines(clips: tuple[Clip, ...]) -> list[str]:
        files = (path for clip in clips for path in _clip_files(clip))
        return sorted(f"{spelled(path.relative_to(scene.root).as_posix())} {_file_digest(path)}\n" for path in files)

    return hashlib.sha256("".join([*lines(scene.train), "test\n", *lines(scene.test)]).encode()).hexdigest()


def _clip_files(clip: Clip) -> list[Path]:
    frames = _frame_files(clip.source) if clip.source.is_dir() else [clip.source]
    return [*frames, *(path for path in (clip.pixel_masks, clip.frame_labels) if path is not None)]


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
    for frame in decode_video(clip.source):
        if count % every == 0 and count < end:
            yield count, frame.to_image()
        count += 1
    check(count)
