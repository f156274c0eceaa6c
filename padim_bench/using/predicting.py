"""Scores images of one's own with a fitted model: a row and a heat map for each, batch by batch."""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.listing import printable
from padim_bench.data.notes import Notes
from padim_bench.data.transforms import decode_image, prepare_image, read_bytes
from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import cannot_write, make_folder
from padim_bench.maps.files import write_map
from padim_bench.padim.footprint import NETWORK, Need, Network, fit_work
from padim_bench.using.finding import COLUMNS, SCORES, Found
from padim_bench.using.heat import LARGEST, Scale, heat_map, picture_of, write_picture

if TYPE_CHECKING:
    from padim_bench.padim.model import PaDiM
    from padim_bench.protocols import Protocol


@dataclass(frozen=True)
class Prediction:
    """What is known of one image: its score, or the problem why it has none.

    Attributes:
        image: as it was named, or found below a folder.
        score: the maximum of its anomaly map, a distance; None where it could not be read.
        over: whether the score is over the threshold; None without one.
        heat_map: its file below the folder of results.
        problem: one line, or "".
    """

    image: Path
    score: float | None = None
    over: bool | None = None
    heat_map: str = ""
    problem: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """In the order of ``COLUMNS``."""
        over = "" if self.over is None else "yes" if self.over else "no"
        score = "" if self.score is None else f"{self.score:.6g}"
        return _named(self.image.as_posix()), score, over, _named(self.heat_map), printable(self.problem)


def _named(path: str) -> str:
    """A path as text that no spreadsheet takes for a formula, and that is a path still."""
    return printable(f"./{path}" if path.startswith(("=", "+", "-", "@", "\t", "\r")) else path)


class _Read(NamedTuple):
    pixels: NDArray[np.uint8]  # (3, S, S), for the model
    picture: NDArray[np.uint8]  # (H, W, 3), to look at


MENDS = (("a model of fewer --n-features or --storage float16", None), ("a smaller --batch-size", None))


def need_of(model: PaDiM, what: str, batch_size: int, threads: int) -> Need:
    """What predicting takes beside the model, whatever the number of images."""
    size, d = model.config.protocol.size, model.gaussians.embedding.n_features
    network = Network.of(model.backbone.working_bytes(size), batch_size)
    pictures = 2 * batch_size * 3 * (size**2 + LARGEST**2)
    # To draw heat over a picture takes numbers in float64 of all its pixels, a few times.
    drawn = threads * 12 * 8 * LARGEST**2
    working = max(network.bytes, network.room(fit_work(1, d, threads)))
    parts = {NETWORK: working}
    if model.backbone.get_buffer("mean").device.type == "cpu":  # elsewhere they are not where the model is
        parts["pictures"] = pictures + drawn
    return Need(what, parts, MENDS)


def predict(
    model: PaDiM,
    images: Sequence[Found],
    out: Path,
    *,
    threshold: float | None,
    maps: bool = False,
    batch_size: int = 8,
    threads: int = 1,
    notes: Notes | None = None,
) -> Iterator[Prediction]:
    """Scores images in order and writes ``out/scores.csv``, a row each, and a heat map ``out/<place>.png`` each.

    Two batches of images are held, however many there are. Files of an earlier call are written over; rows stand in
    the file batch by batch, so that whatever ends this, what was yielded is kept. Colours are of one scale for all
    images: full at 1.5 times the threshold, or without one at three times the root of the number of dimensions, about
    three times the distance of an image that fits the Gaussian.

    Args:
        model: fitted; its protocol prepares images.
        images: and their places below ``out``.
        out: made where it is missing.
        threshold: of image scores; None for none.
        maps: write ``out/<place>.tiff`` too: float32, (S, S) of the protocol, distances.
        batch_size: images scored at a time.
        threads: files decoded and written at a time.
        notes: told of how files were read.

    Yields:
        A prediction for each image; one that cannot be read has a ``problem`` and no files.

    Raises:
        PadimBenchError: the folder cannot be written.
    """
    import torch

    protocol = model.config.protocol
    full = 1.5 * threshold if threshold else 3 * math.sqrt(model.gaussians.embedding.n_features)
    made = set[Path]()

    def write(found: Found, picture: NDArray[np.uint8], values: NDArray[np.float32]) -> str:
        path = out / f"{found.place}.png"
        _make(path.parent, made)
        write_picture(path, heat_map(picture, values, protocol, Scale(full / 2, full), threshold))
        if maps:
            write_map(path.with_name(f"{found.place.name}.tiff"), values)
        return path.relative_to(out).as_posix()

    _make(out, made)
    with (
        _csv_file(out / SCORES) as table,
        ThreadPoolExecutor(max_workers=max(1, threads)) as pool,
        closing(_read_ahead(pool, images, protocol, batch_size, notes)) as batches,
    ):
        _write_rows(table, [COLUMNS], out)  # at once: a folder that has it holds results
        for batch in batches:
            sound = [(found, read) for found, read in batch if isinstance(read, _Read)]
            done = {found: Prediction(found.image, problem=read) for found, read in batch if isinstance(read, str)}
            if sound:
                values, scores = model.score(torch.from_numpy(np.stack([read.pixels for _, read in sound])))
                written = [
                    pool.submit(write, found, read.picture, one)
                    for (found, read), one in zip(sound, values.cpu().numpy(), strict=True)
                ]
                for (found, _), score, file in zip(sound, scores.tolist(), written, strict=True):
                    over = None if threshold is None else score > threshold
                    done[found] = Prediction(found.image, score, over, file.result())
            predictions = [done[found] for found, _ in batch]
            _write_rows(table, [one.row for one in predictions], out)
            yield from predictions


def _read_ahead(
    pool: ThreadPoolExecutor, images: Sequence[Found], protocol: Protocol, batch_size: int, notes: Notes | None
) -> Generator[list[tuple[Found, _Read | str]], None, None]:
    """Batch after batch; the next one is decoded while the caller works on this one. A problem is its line."""

    def read(image: Path) -> _Read | str:
        try:
            content = read_bytes(image)
            with ExitStack() as turn:
                decoded = decode_image(content, image, protocol, notes, turn=turn)
                pixels, picture = prepare_image(decoded, protocol), picture_of(decoded)
                del decoded, content  # before the next thread's turn
        except PadimBenchError as error:
            return str(error)
        return _Read(pixels, picture)

    ahead: deque[list[tuple[Found, Future[_Read | str]]]] = deque()
    try:
        for start in range(0, len(images), batch_size):
            ahead.append([(found, pool.submit(read, found.image)) for found in images[start : start + batch_size]])
            if len(ahead) > 1:
                yield [(found, one.result()) for found, one in ahead.popleft()]
        for batch in ahead:
            yield [(found, one.result()) for found, one in batch]
    finally:  # also where the caller stops halfway
        for batch in ahead:
            for _, one in batch:
                one.cancel()


def _make(folder: Path, made: set[Path]) -> None:
    """Once a folder."""
    if folder not in made:
        make_folder(folder)
        made.add(folder)


def _write_rows(table: TextIO, rows: Sequence[tuple[str, ...]], out: Path) -> None:
    """So that they stand in the file whatever comes next."""
    try:
        csv.writer(table, lineterminator="\n").writerows(rows)
        table.flush()
    except OSError as error:
        raise cannot_write(out / SCORES, error) from error


@contextmanager
def _csv_file(path: Path) -> Iterator[TextIO]:
    try:
        table = path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield table
    finally:
        with suppress(OSError):  # of a full disk, which was said when rows were written
            table.close()
