"""What the registries of datasets and metrics promise to those that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from padim_bench import PadimBenchError
from padim_bench.data.datasets import DATASETS
from padim_bench.metrics.summary import METRICS, Histograms, Metric, compute_metrics
from padim_bench.records.files import read_records, to_json, write_record
from padim_bench.records.sealed import sealed
from tests.drawn_records import run_config, run_record


def test_complete_datasets_have_as_many_categories_as_their_publishers_say() -> None:
    counted = {name: [d.full(group) for group in ("texture", "object", "all")] for name, d in DATASETS.items()}
    assert counted["mvtec-ad"] == [5, 10, 15]
    assert counted["demo"] == [2, 2, 4]
    assert (counted["stc"][2], counted["demo-stc"][2]) == (12, 2)


def test_every_name_is_its_own_key() -> None:
    for registry in (DATASETS, METRICS):
        assert all(name == entry.name for name, entry in registry.items())


def test_histograms_give_what_they_can_within_their_bounds() -> None:
    draw = np.random.default_rng(0)
    maps = draw.random((3, 8, 8), dtype=np.float32)
    masks = draw.random((3, 8, 8)) > 0.7
    exact = compute_metrics(np.array([0, 1, 1]), maps.max(axis=(1, 2)), masks, maps)
    histograms = Histograms()
    for one, mask in zip(maps, masks, strict=True):
        histograms.update(one, mask)
    streamed = histograms.metrics()
    assert list(streamed) == [m.name for m in METRICS.values() if m.level == "pixel"]
    for name, found in streamed.items():
        assert abs(found.value - exact[name]) <= found.error_bound + 1e-12


def test_a_record_of_before_a_metric_was_added_is_read_and_one_that_lost_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_record(tmp_path, run_record(run_config()))
    later = Metric("later", "Later", "image", lambda e: float(e.scores.max()), required=False)
    monkeypatch.setitem(METRICS, "later", later)
    ((_, record),) = read_records(tmp_path).values()
    stored = record.to_dict()
    del stored["metrics"]["pro"]
    path.write_text(sealed(to_json(stored) + "\n"))
    with pytest.raises(PadimBenchError, match=r"\(metrics\.pro: "):
        read_records(tmp_path)


def test_tables_show_a_metric_in_its_unit() -> None:
    assert METRICS["pro"].shown(0.9) == 100 * 0.9
    assert [METRICS[name].phrase for name in ("pixel_f1_max", "pro")] == ["pixel F1-max", "PRO"]
