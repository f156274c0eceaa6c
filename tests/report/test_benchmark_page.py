"""What is published of saved benchmarks, and their page."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from padim_bench.report.benchmarks import page, published, write_page
from tests.spoil import edited, outcomes, ruined, spoilt

HOST, BRANCH, PROJECT = "some-host.example", "secret-branch", "secret-project"


def benchmark(label: str, median: float, group: str = "Fit, 1 thread", **about: object) -> dict[str, Any]:
    return {
        "group": group,
        "name": f"test_fit[{label}]",
        "fullname": f"tests/benchmarks/test_strategies.py::test_fit[{label}]",
        "params": {"name": label},
        "param": label,
        "extra_info": {"label": label, **about},
        "options": {"timer": "perf_counter"},
        "stats": {"median": median, "min": median / 3, "rounds": 5, "outliers": "0;1", "data": [median] * 5, "q1": 1.0},
    }


def saved(*benchmarks: dict[str, Any]) -> dict[str, Any]:
    """As pytest-benchmark saves it, with its own fields that name the machine and the checkout."""
    return {
        "machine_info": {
            "node": HOST,
            "hostname": HOST,
            "release": HOST,
            "processor": HOST,
            "os": "Linux x86_64",
            "cpu": "A processor",
            "cpu_count": 2,
            "cpu_capability": "AVX2",
            "python": "3.11.2",
            "versions": {"torch": "2.15.0", "numpy": "2.4.0", "scipy": "1.16.0", "timm": "1.0.20"},
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": False, "project": PROJECT, "branch": BRANCH, "error": HOST},
        "datetime": "2026-11-25T10:00:00+00:00",
        "version": "5.3.1",
        "benchmarks": list(benchmarks),
    }


CEILINGS = {
    "1": {"gemm_float32": 98.7, "gemm_float64": 47.1, "bmm_float32": 61.0, "bmm_float64": 33.0, "copy": 11.25},
}


def run(*benchmarks: dict[str, Any], invalid: tuple[str, ...] = ()) -> dict[str, Any]:
    kept = published(saved(*benchmarks), ceilings=CEILINGS, invalid=list(invalid), load_average=[0.1, 1.9])
    return json.loads(json.dumps(kept))  # type: ignore[no-any-return]


def test_nothing_that_names_the_machine_or_the_checkout_is_published() -> None:
    text = json.dumps(run(benchmark("cholesky", 0.5)))
    assert not [secret for secret in (HOST, BRANCH, PROJECT) if secret in text]
    assert "A processor" in text
    assert "0123456789abcdef" in text


def test_single_timings_and_options_are_left_out_and_what_comparisons_need_is_kept() -> None:
    (kept,) = run(benchmark("cholesky", 1 / 3))["benchmarks"]
    assert kept["stats"] == {"median": 0.33333, "min": 0.11111, "rounds": 5, "outliers": "0;1"}
    assert kept["fullname"].endswith("test_fit[cholesky]")
    assert "options" not in kept


def test_page_ranks_each_group_by_median() -> None:
    slow = benchmark("cholesky", 0.004, gflop_per_s=12.3456, gb_per_s=0.5, share=0.125, bound="flops")
    fast = benchmark("whitening", 0.001, gflop_per_s=450.6, gb_per_s=None, share=1.02, bound="bytes")
    other = benchmark("resnet18", 2.0, group="Backbones, 1 thread", share=None)
    text = page({"cpu": run(slow, fast, other)})
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| threads | float32 product, GFLOP/s |")
    assert rows[2] == "| 1 | 98.7 | 47.1 | 61 | 33 | 11.2 |"
    assert rows[3:] == [
        "|  | median | over the best exact | GFLOP/s | GB/s | share of the ceiling |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| whitening | 1 ms | 1.00 | 451 | \N{EN DASH} | 102% (bytes) |",
        "| cholesky | 4 ms | 4.00 | 12.3 | 0.5 | 12% (flops) |",
        "|  | median | over the best exact | GFLOP/s | GB/s | share of the ceiling |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| resnet18 | 2 s | 1.00 | \N{EN DASH} | \N{EN DASH} | \N{EN DASH} |",
    ]
    assert text.index("### Fit, 1 thread") < text.index("### Backbones, 1 thread")
    assert "A processor, 2 cores, AVX2, Linux x86_64" in text
    assert "commit 0123456789ab; load average at the start and the end 0.1, 1.9." in text


def test_page_says_what_the_machine_multiplies_natively_where_that_was_kept() -> None:
    assert "Machine:" not in page({"cpu": run(benchmark("cholesky", 1.0))})
    told = saved(benchmark("cholesky", 1.0))
    told["machine_info"]["features"] = "AVX512-BF16; MKL: none"
    text = page({"cpu": published(told, ceilings=CEILINGS, invalid=[], load_average=[0.1, 1.9])})
    assert "0.1, 1.9. Machine: AVX512-BF16; MKL: none." in text


def test_lossy_work_is_no_measure_for_exact_work() -> None:
    text = page({"cpu": run(benchmark("diagonal", 0.1, lossy=True), benchmark("a", 1.0), benchmark("b", 2.0))})
    assert "| diagonal (lossy) | 100 ms | 0.10 |" in text
    assert "| b | 2 s | 2.00 |" in text
    assert "| 1.00 |" in page({"cpu": run(benchmark("diagonal", 0.1, lossy=True))})


def test_page_says_where_the_time_of_a_whole_run_went_and_how_much_its_floor_does_not_explain() -> None:
    stages = {"imports": 4.0, "backbone_train": 4.0, "fit": 1.5, "rest": 0.5}
    text = page({"cpu": run(benchmark("R18", 9.0, stages_s=stages, floor_s=8.0, bound="imports, backbone", share=0.8))})
    assert "| R18 | 9 s | 1.00 | \N{EN DASH} | \N{EN DASH} | 80% (imports, backbone) |" in text
    assert "R18, one run of 10 s: imports, backbone take 8 s, all else 25% of that." in text
    assert "| stage | time | share |" in text
    assert "| backbone train | 4 s | 40% |\n| fit | 1.5 s | 15% |\n| rest | 500 ms | 5% |" in text


def test_page_says_what_was_wrong() -> None:
    text = page({"cpu": run(benchmark("cholesky", 1.0), invalid=("explicit-lu, d = 550, 2 threads: is wrong here",))})
    assert "- explicit-lu, d = 550, 2 threads: is wrong here" in text
    assert "wrong" not in page({"cpu": run(benchmark("cholesky", 1.0))})


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.2e-5, "42 us"), (123.4, "123 s"), (3e-8, "0.03 us")],
)
def test_durations_are_in_a_fitting_unit(seconds: float, expected: str) -> None:
    assert f"| {expected} |" in page({"cpu": run(benchmark("cholesky", seconds))})


def test_readme_is_written_from_all_runs_of_a_folder(tmp_path: Path) -> None:
    write_page(tmp_path)
    assert not list(tmp_path.iterdir())
    for name in ("gpu", "cpu"):
        (tmp_path / f"{name}.json").write_text(json.dumps(run(benchmark("cholesky", 1.0))), encoding="utf-8")
    write_page(tmp_path)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.index("## cpu") < text.index("## gpu")


def test_a_saved_run_that_is_spoilt_is_named_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    draw, whole = random.Random(8), run(benchmark("cholesky", 1.0))
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    (tmp_path / "._cpu.json").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    (tmp_path / "folder.json").mkdir()
    write_page(tmp_path)

    def written() -> str:
        write_page(tmp_path)
        return (tmp_path / "README.md").read_text(encoding="utf-8")

    expected = written()
    contents = [*ruined(path.read_bytes()), *(json.dumps(edited(whole, draw)).encode() for _ in range(200))]
    cases = {f"{i}: {c[:40]!r}": spoilt(path, c, written) for i, c in enumerate(contents)}
    assert outcomes(cases, expected, str(path), changes=True)["refused"] > 50
