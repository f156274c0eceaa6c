"""Two drawn scenes in the layout of ShanghaiTech Campus: pedestrians walk, and through one clip a bright box rushes."""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.random import default_rng
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.video import frames_folder, load_pyav
from padim_bench.errors import PadimBenchError

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
            load_pyav(root / "training" / "videos" / "01_001.avi", "draw frames alone (video=False)")
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
                _save_frames(frames_folder(videos / name), shots)
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
    av = load_pyav(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = _WIDTH, _HEIGHT, "yuv420p", 6_000_000
        for shot in shots:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shot, format="rgb24")))
        container.mux(stream.encode(None))
