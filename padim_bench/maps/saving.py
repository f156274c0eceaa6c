"""Maps out: every test image's anomaly map as a file, while a model scores them, and the masks that go with them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.decoding import upright_size
from padim_bench.data.loading import sample_name
from padim_bench.data.masks import read_mask
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import original_crop, prepare_mask
from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import write_bytes, write_text
from padim_bench.maps.files import category_folder, map_names, write_map
from padim_bench.protocols import Protocol

if TYPE_CHECKING:
    from torch import Tensor

MapsAt = Literal["image", "protocol"]
SCORES = "scores.csv"  # beside a category's maps, written when all of them are


@dataclass(frozen=True)
class SaveMaps:
    """Where maps of test images go, and at which size.

    Maps are float32 TIFFs ``folder/CATEGORY/test/DEFECT/IMAGE.tiff``, as MVTec's evaluation code reads them. When all
    of a category are there, ``folder/CATEGORY/scores.csv`` has the image scores.

    Attributes:
        folder: for the maps.
        at: "image": of the images' size as stored; what a crop cuts off has the map's own minimum. "protocol": as they
            were compared, (S, S).
        masks: folder for ``CATEGORY/ground_truth/DEFECT/IMAGE_mask.png`` of the maps' sizes: at "protocol" those that
            the protocol compares with, at "image" those stored, normal where a crop cuts off. None writes none.
    """

    folder: Path
    at: MapsAt = "image"
    masks: Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.masks is not None:
            object.__setattr__(self, "masks", Path(self.masks))
        if self.at not in get_args(MapsAt):
            raise PadimBenchError(f"maps at {self.at!r}: choose from {', '.join(get_args(MapsAt))}")

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that is written to."""
        return (self.folder,) if self.masks is None else (self.folder, self.masks)

    def with_full_paths(self) -> SaveMaps:
        """The same for a process whose working folder is another one."""
        return replace(self, folder=self.folder.absolute(), masks=None if self.masks is None else self.masks.absolute())

    def check(self, protocol: Protocol) -> None:
        """Raises PadimBenchError for a protocol whose maps have no place in the images as stored."""
        if self.at == "image" and protocol.images.rotation:
            raise PadimBenchError(
                f"protocol {protocol.name} turns images, which maps at the images' size cannot follow: "
                "save them with --maps-at protocol"
            )

    def check_apart(self, category: Category) -> None:
        """Raises PadimBenchError for the dataset's own folder, whose masks would be written over, and images joined."""
        for folder in self.folders:
            if os.path.realpath(folder) == os.path.realpath(category.root):
                raise PadimBenchError(
                    f"{folder} is the dataset itself, whose masks would be lost and whose test images would be more: "
                    "give --save-maps and --save-masks folders of their own"
                )


class MapWriter:
    """Writes the maps of one category as they are made, in the order of its test images.

    Args:
        where: what to write.
        category: whose test images they are of.
        protocol: that the maps are of.

    Raises PadimBenchError for images whose maps would have one name, and as :meth:`SaveMaps.check` does.
    """

    def __init__(self, where: SaveMaps, category: Category, protocol: Protocol) -> None:
        where.check(protocol)
        self._where, self._category, self._protocol = where, category, protocol
        self._base = category_folder(where.folder, category)
        self._names, self._done = map_names(category), 0
        try:
            (self._base / SCORES).unlink(missing_ok=True)  # of maps that are now written over
        except OSError as error:
            raise PadimBenchError(
                f"cannot replace {self._base / SCORES}: {error.strerror}: choose another folder"
            ) from error

    def add(self, maps: Tensor) -> None:
        """Writes the maps (B, S, S), float32, of the next test images."""
        for one in maps:
            sample, name = self._category.test[self._done], self._names[self._done]
            self._done += 1
            if self._where.at == "protocol":
                write_map(self._base / f"{name}.tiff", one.numpy())
            else:
                size = upright_size(sample.image)
                write_map(self._base / f"{name}.tiff", at_image(one, size, self._protocol))
            if self._where.masks is not None and sample.mask is not None:
                self._write_mask(self._where.masks, sample, sample.mask)

    def finish(self, scores: NDArray[np.float32]) -> None:
        """Writes the image scores (n,), once all maps are written."""
        names = [sample_name(self._category, sample) for sample in self._category.test]
        write_scores(self._base / SCORES, names, scores)

    def _write_mask(self, folder: Path, sample: Sample, path: Path) -> None:
        mask, _ = read_mask(path)
        if self._where.at == "protocol":
            name = sample_name(self._category, sample)
            mask = prepare_mask(mask, self._protocol.vary(compare_at="protocol"), name)
        else:
            rows, columns = original_crop((mask.shape[1], mask.shape[0]), self._protocol)
            kept = np.zeros_like(mask)
            kept[rows, columns] = mask[rows, columns]
            mask = kept
        content = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(content, "PNG")
        place = category_folder(folder, self._category) / "ground_truth" / sample.image.parent.name
        write_bytes(place / f"{sample.image.stem}_mask.png", content.getvalue())


def at_image(score_map: Tensor, size: tuple[int, int], protocol: Protocol) -> NDArray[np.float32]:
    """A map (S, S) laid over an image of (width, height) as stored: (height, width) float32.

    Under the crop it is resized by the protocol's filter for maps; beside it, where nothing was scored, it has the
    minimum of that.
    """
    from padim_bench.padim.anomaly_map import resized_map

    rows, columns = original_crop(size, protocol)
    inner = resized_map(score_map, (rows.stop - rows.start, columns.stop - columns.start), protocol.maps.interpolation)
    whole = np.full((size[1], size[0]), inner.min(), dtype=np.float32)
    whole[rows, columns] = inner
    return whole


def write_scores(path: Path, names: Sequence[str], scores: NDArray[np.float32]) -> None:
    """Image scores as CSV, each in the digits that give its float32 back: ``image,score``, images by their path."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["image", "score"])
    rows.writerows([name, str(score)] for name, score in zip(names, scores, strict=True))
    write_text(path, text.getvalue())
