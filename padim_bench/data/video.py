"""Frames of a video, through PyAV. That is optional, even to the type checker: what comes from it is Any."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError


def frames_folder(video: Path) -> Path:
    """Where the frames of ``video`` lie if they are extracted."""
    return video.parent.parent / "frames" / video.stem


def load_pyav(video: Path, otherwise: str = "") -> Any:
    """The module ``av``, if it is installed. Raises PadimBenchError that names ``video`` and what to do otherwise."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        otherwise = otherwise or f"extract the frames to {frames_folder(video)}"
        raise PadimBenchError(f"{video} needs PyAV: pip install 'padim-bench[video]', or {otherwise}") from error


def _bad_video(video: Path, why: str) -> PadimBenchError:
    mend = f"fetch it again, or extract its frames to {frames_folder(video)}"
    return PadimBenchError(f"corrupt or truncated video {video} ({why}): {mend}")


def _video_stream(container: Any, video: Path) -> Any:
    if not container.streams.video:
        raise _bad_video(video, "no video stream")
    if container.streams.video[0].codec_context is None:
        raise _bad_video(video, "PyAV has no decoder for it")
    return container.streams.video[0]


def count_video_frames(video: Path) -> int:
    """The frames of ``video``, as it states them or, where it states none, decoded. Raises PadimBenchError."""
    av = load_pyav(video)
    try:
        with av.open(str(video), metadata_errors="replace") as container:
            stated = int(_video_stream(container, video).frames)
    except av.error.FFmpegError as error:
        raise _bad_video(video, error.strerror) from error
    return stated or sum(1 for _ in decode_video(video))


def decode_video(video: Path) -> Iterator[Any]:
    """The video's frames (av.VideoFrame) in the order in which they are shown, timestamps disregarded.

    Raises PadimBenchError, perhaps after its last good frame, for a video that is damaged, cut short or empty.
    """
    av = load_pyav(video)
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
