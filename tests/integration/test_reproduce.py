"""``padim-bench reproduce`` and the smaller commands: tables beside the paper's numbers, lists, checks, data."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean

import pytest
from support import CommandLine, assert_refused, contents, record_files, start, unescaped

from padim_bench.cli import main
from padim_bench.data.datasets import DEMO_CATEGORIES
from padim_bench.data.mvtec_ad import MVTEC_OBJECTS, MVTEC_TEXTURES
from padim_bench.demo import images
from padim_bench.errors import PadimBenchError
from padim_bench.padim.config import PADIM
from padim_bench.padim.strategies import strategy_names
from padim_bench.protocols import PROTOCOLS
from padim_bench.records.files import check_mergeable, read_records
from padim_bench.records.runs import RunRecord
from padim_bench.report.render import table_page
from padim_bench.report.spec import load_spec, specs_folder
from padim_bench.report.tables import build_table
from padim_bench.reproduction.kinds import NO_RECORD

TABLES = ("reproduce", "table3", "table5")
UNTRAINED = ("--weights", "random", "--threads", "1", "--backbones", "resnet18")
OPTIONS = (*UNTRAINED, "--dataset", "mvtec-ad")  # a few drawn images are not, and every title says so
PRESENT = {"texture": ["grid"], "object": ["bottle"], "all": ["grid", "bottle"]}  # with masks


@pytest.fixture(scope="module")
def results(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tables over the three small categories."""
    folder = tmp_path_factory.mktemp("reproduced")
    assert main([*TABLES, *OPTIONS, "--data", str(tiny), "--results", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def records(results: Path) -> dict[str, RunRecord]:
    """PaDiM's record of each category."""
    found = [record for _, record in read_records(results).values() if record.config.model.method == PADIM]
    return {record.config.category: record for record in found}


def _rows(results: Path, table: str) -> dict[tuple[str, str], dict[str, str]]:
    with (results / "tables" / f"{table}.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "R18-Rd100"]
    return {(row["metric"], row["row"]): row for row in rows}


def _printed(table: str, method: str) -> dict[tuple[str, str], float]:
    """The paper's numbers, read without our own reader."""
    with (specs_folder() / "paper" / f"{table}.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == method]
    return {(row["metric"], row["row"]): float(row["value"]) for row in rows}


def test_every_table_is_written_in_three_formats_with_an_index(results: Path) -> None:
    assert sorted(p.name for p in (results / "tables").iterdir()) == [
        f"table{n}.{end}" for n in (3, 5) for end in ("csv", "md", "tex")
    ]
    index = (results / "README.md").read_text()
    links = re.findall(r"\]\((.*?)\)", index)
    assert len(links) == 7  # and the report
    assert all((results / link).is_file() for link in links)
    assert len(record_files(results)) == 2 * 3  # both tables are of the same runs, PaDiM's and SPADE's


def test_our_numbers_are_those_of_the_records(results: Path, records: dict[str, RunRecord]) -> None:
    assert set(records) == {"bottle", "grid", "leather"}
    for table, metrics in (("table3", ("pixel_auroc", "pro")), ("table5", ("image_auroc",))):
        rows = _rows(results, table)
        for metric in metrics:
            for category, record in records.items():
                value, row = record.value(metric), rows[metric, category]
                assert row["ours"] == ("" if value is None else f"{100 * value:.2f}")
                assert row["records"] == ("" if value is None else record.id[:12])
    assert _rows(results, "table3")["pro", "leather"]["ours"] == ""


def test_the_papers_numbers_are_those_of_its_file(results: Path) -> None:
    rows, printed = _rows(results, "table3"), _printed("table3", "PaDiM-R18-Rd100")
    for metric in ("pixel_auroc", "pro"):
        for category in ("bottle", "grid", "leather"):
            row, paper = rows[metric, category], printed[metric, category]
            assert float(row["paper"]) == float(row["paper_printed"]) == paper
            if row["ours"]:
                assert float(row["difference"]) == pytest.approx(float(row["ours"]) - paper, abs=0.0101)
        for group in PRESENT:
            assert float(rows[metric, group]["paper_printed"]) == printed[metric, group]


def test_means_are_recomputed_over_the_categories_present(results: Path, records: dict[str, RunRecord]) -> None:
    rows, printed = _rows(results, "table3"), _printed("table3", "PaDiM-R18-Rd100")
    full = {"texture": 5, "object": 10, "all": 15}
    for metric in ("pixel_auroc", "pro"):
        for group, names in PRESENT.items():
            row = rows[metric, group]
            ours = fmean(100 * (records[name].value(metric) or 0) for name in names)
            assert float(row["ours"]) == pytest.approx(ours, abs=0.00501)
            assert float(row["paper"]) == pytest.approx(fmean(printed[metric, name] for name in names), abs=0.00501)
            assert (int(row["categories"]), int(row["of"])) == (len(names), full[group])
    text = (results / "tables" / "table3.md").read_text()
    assert "mean of 2 of 15" in text
    assert "3 of 15 categories" in text


def test_the_verdict_follows_the_tolerance_of_the_spec(results: Path) -> None:
    tolerance = {metric.key: metric.tolerance for metric in load_spec("table3").metrics}
    judged = {key: row for key, row in _rows(results, "table3").items() if row["verdict"]}
    assert set(judged) == {(metric, row) for metric in tolerance for row in ("bottle", "grid", *PRESENT)}
    for metric, category in product(tolerance, ("bottle", "grid")):  # means are printed rounded, and judged as they are
        row = judged[metric, category]
        within = abs(float(row["ours"]) - float(row["paper"])) <= tolerance[metric] + 1e-9
        assert row["verdict"] == ("within" if within else "outside")


def test_every_format_says_that_the_weights_are_untrained(results: Path) -> None:
    for path in (results / "tables").iterdir():
        title = next(line for line in path.read_text().splitlines() if "Table" in line)
        assert "UNTRAINED RANDOM WEIGHTS" in title
        assert "DEMO" not in title
    assert (results / "README.md").read_text().count("UNTRAINED RANDOM WEIGHTS") == 2


def test_the_caption_holds_weights_protocol_and_coverage(results: Path) -> None:
    for name in ("table3.md", "table5.md"):
        text = (results / "tables" / name).read_text()
        for fact in ("untrained random weights (seed 0)", "100 random of 448 channels", "seed 1024", "rotocol paper"):
            assert fact in text
        assert "ithout ground-truth masks, image level only: leather" in text


def test_markdown_rows_are_as_long_as_their_header(results: Path) -> None:
    for path in (results / "tables").glob("*.md"):
        grids = [block.splitlines() for block in path.read_text().split("\n\n") if block.startswith("|")]
        assert grids
        for lines in grids:
            assert len(lines) > 2
            assert len({line.count("|") for line in lines}) == 1


def test_csv_rows_are_as_long_as_their_header(results: Path) -> None:
    for path in (results / "tables").glob("*.csv"):
        with path.open(newline="") as file:
            assert len({len(row) for row in csv.reader(file)}) == 1


def test_latex_is_balanced_and_escaped(results: Path) -> None:
    for path in (results / "tables").glob("*.tex"):
        first, *lines = path.read_text().splitlines()
        assert first.startswith("%")
        text = "\n".join(lines)
        assert unescaped(text, "{") == unescaped(text, "}")
        assert unescaped(text, "$") % 2 == 0
        for special in "%#_~":
            assert unescaped(text, special) == 0
        assert unescaped(re.sub(r"\$.*?\$", "", text), "^") == 0
        assert text.isascii()
        tabulars = re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
        assert tabulars
        for columns, body in tabulars:
            rows = [line for line in body.splitlines() if line.endswith(r" \\")]
            assert {unescaped(row, "&") for row in rows} == {len(columns) - 1}
            for command in ("toprule", "midrule", "bottomrule"):
                assert f"\\{command}" in body
        for command in ("caption", "label"):
            assert f"\\{command}" in text
        begun, ended = (re.findall(rf"\\{word}\{{(.*?)\}}", text) for word in ("begin", "end"))
        assert begun == ["table*", *["tabular"] * len(tabulars)]
        assert sorted(begun) == sorted(ended)


def test_json_is_one_document_of_tables_and_runs(cli: CommandLine, tiny: Path, results: Path) -> None:
    before = contents(results)
    reply = cli(*TABLES, *OPTIONS, "--data", tiny, "--results", results, "--json")
    assert reply.code == 0
    document = reply.document
    assert document["dataset"] == "mvtec-ad"
    assert [table["name"] for table in document["tables"]] == ["table3", "table5"]
    assert all(Path(file).is_file() for table in document["tables"] for file in table["files"])
    # Six images of a category are not MVTec AD, whatever the folder is called.
    for table in document["tables"]:
        assert table["warnings"][0].startswith("not the official split: ")
        assert {"grid", "bottle"} <= set(table["warnings"][0].partition(": ")[2].split(", "))
        assert table["warnings"][1:] == ["untrained random weights"]
    assert all(run["resumed"] for run in reply.runs)
    rows = _rows(results, "table3")
    for cell in (cell for cell in document["tables"][0]["cells"] if cell["model"] == "R18-Rd100"):
        row = rows[cell["metric"], cell["row"]]
        for key in ("paper", "ours", "difference"):
            assert row[key] == ("" if cell[key] is None else f"{cell[key]:.2f}")
    after = contents(results)
    assert {name: found[0] for name, found in after.items()} == {name: found[0] for name, found in before.items()}
    for name in before:
        assert not name.startswith("records/") or after[name] == before[name]


def test_without_json_a_summary_is_printed_that_counts_the_cells_of_the_files(
    cli: CommandLine, tiny: Path, results: Path, records: dict[str, RunRecord]
) -> None:
    reply = cli(*TABLES, *OPTIONS, "--data", tiny, "--results", results)
    assert reply.code == 0
    *lines, index = reply.out.splitlines()
    assert index == f"{results.as_posix()}/README.md links it all"
    assert [line.partition(":")[0] for line in lines] == ["table3", "table5"]
    compared = {key: row for key, row in _rows(results, "table3").items() if key[1] in records}
    counts = []
    for metric, title in (("pixel_auroc", "Pixel AUROC"), ("pro", "PRO"), ("pro_per_image", "PRO per image")):
        verdicts = [row["verdict"] for (key, _), row in compared.items() if key == metric and row["verdict"]]
        counts.append(f"{title} {verdicts.count('within')} of {len(verdicts)}")
    lacking = sum(row["paper"] != "" and row["ours"] == "" for (m, _), row in compared.items() if m != "pro_per_image")
    assert ([one[-1] for one in counts], lacking) == (["2", "2", "2"], 2)
    assert f"cells within tolerance of the paper's: {', '.join(counts)}; 2 of the paper's without one" in lines[0]
    assert f"Cells within: {', '.join(counts)};" in (results / "tables" / "table3.md").read_text()
    assert "no cell to compare with the paper's; WR50" in lines[1]  # Table V prints nothing of this model
    for line, table in zip(lines, ("table3", "table5"), strict=True):
        assert "[UNTRAINED RANDOM WEIGHTS]" in line
        assert "WR50-Rd550, EfficientNet-B5, SPADE (WR50)" in line.partition(" not run (not asked for")[0]
        assert line.endswith(f": {(results / 'tables' / f'{table}.md').as_posix()}")


def test_the_pages_are_printed_when_asked_for(cli: CommandLine, tiny: Path, results: Path) -> None:
    reply = cli("reproduce", "table5", *OPTIONS, "--data", tiny, "--results", results, "--print")
    assert reply.code == 0
    assert (results / "tables" / "table5.md").read_text() in reply.out
    assert "table3" not in reply.out


def test_the_same_records_give_the_same_bytes(results: Path, records: dict[str, RunRecord]) -> None:
    spec = load_spec("table3")
    rivals = {r.config.category: r for _, r in read_records(results).values() if r.config.model.method == "spade"}
    order = ("grid", "leather", "bottle")
    runs = {"R18-Rd100": [records[name] for name in order], "SPADE (R18)": [rivals[name] for name in order]}
    not_asked_for = ("WR50-Rd550", "EfficientNet-B5", "SPADE (WR50)")
    missing = dict.fromkeys(not_asked_for, NO_RECORD)
    for suffix in ("md", "csv", "tex"):
        texts = {table_page(build_table(spec, deepcopy(runs), missing)).texts[f".{suffix}"] for _ in range(2)}
        assert texts == {(results / "tables" / f"table3.{suffix}").read_text()}


def _another_split(record: RunRecord) -> RunRecord:
    return replace(record, dataset=replace(record.dataset, split_digest="0" * 64))


def _other_weights(record: RunRecord) -> RunRecord:
    dataset, weights = replace(record.dataset, category="tile"), replace(record.weights, tensors_sha256="0" * 64)
    return replace(record, dataset=dataset, weights=weights)


def _another_major_version(record: RunRecord) -> RunRecord:
    versions = record.environment.versions | {"padim-bench": "77.0.0"}
    return replace(record, environment=replace(record.environment, versions=versions))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_another_split, "split of mvtec-ad/bottle"),
        (_other_weights, "weights of resnet18"),
        (_another_major_version, "major version"),
    ],
)
def test_records_that_do_not_measure_the_same_are_not_merged(
    records: dict[str, RunRecord], change: Callable[[RunRecord], RunRecord], named: str
) -> None:
    other = replace(records["bottle"], id="f" * 64)
    check_mergeable([*records.values(), other])
    with pytest.raises(PadimBenchError, match=named):
        check_mergeable([*records.values(), change(other)])


def test_records_of_two_datasets_are_not_put_into_one_table(records: dict[str, RunRecord]) -> None:
    other = replace(records["bottle"], dataset=replace(records["bottle"].dataset, name="demo"))
    with pytest.raises(PadimBenchError, match="one dataset"):
        build_table(load_spec("table3"), {"R18-Rd100": [records["grid"], other]}, {})


def test_a_dataset_that_the_paper_does_not_know_has_no_papers_numbers(
    cli: CommandLine, custom: Path, tmp_path: Path
) -> None:
    command = ("reproduce", "table3", *UNTRAINED, "--data", custom)
    assert cli(*command, "--results", tmp_path).code == 0
    rows = _rows(tmp_path, "table3").values()
    assert {(row["dataset"], row["paper"], row["paper_printed"], row["verdict"]) for row in rows} == {
        ("factory", "", "", "")
    }
    ours = {(row["metric"], row["row"]): row["ours"] for row in rows}
    assert ours["pro", "part"] == ours["pro", "all"] != ""
    assert ours["pro", "texture"] == ""


def test_categories_of_mvtec_ads_names_with_other_numbers_of_images_have_no_papers_numbers(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    reply = cli("reproduce", "table5", *UNTRAINED, "--data", tiny, "--categories", "grid", "--results", tmp_path)
    assert reply.code == 0
    assert "grid: not with MVTec AD's numbers of images, so taken for a dataset of its own, set" in reply.err
    assert "--dataset mvtec-ad" in reply.err
    assert {(row["dataset"], row["paper"]) for row in _rows(tmp_path, "table5").values()} == {("set", "")}


@pytest.mark.usefixtures("no_hub")
def test_with_no_data_and_no_weights_it_is_the_demo_and_every_title_says_so(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, few in (("TRAIN", 3), ("TEST_GOOD", 2), ("PER_DEFECT", 1)):
        monkeypatch.setattr(images, count, few)
    reply = cli(*TABLES, "--backbones", "resnet18", "--threads", 1, "--results", tmp_path)
    assert reply.code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"demo"}
    texts = [path.read_text() for path in (tmp_path / "demo" / "tables").iterdir()]
    assert len(texts) == 6
    for text in texts:
        title = next(line for line in text.splitlines() if "Table" in line)
        assert "DEMO DATA, NOT MVTEC AD" in title
        assert "UNTRAINED RANDOM WEIGHTS" in title
    assert {row["paper"] for row in _rows(tmp_path / "demo", "table3").values()} == {""}
    assert reply.out.count("[DEMO DATA, NOT MVTEC AD] [UNTRAINED RANDOM WEIGHTS] no cell to compare") == 2
    assert "padim-bench data download mvtec-ad" in reply.out
    assert "tox -e reproduce -- --data" in reply.out


@pytest.mark.usefixtures("no_hub")
def test_with_data_untrained_weights_are_never_chosen_for_the_user(
    cli: CommandLine, tiny: Path, tmp_path: Path
) -> None:
    reply = cli(*TABLES, "--backbones", "resnet18", "--data", tiny, "--results", tmp_path, "--json")
    assert_refused(reply, "resnet18.tv_in1k", "--weights")
    assert record_files(tmp_path) == []


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("backbones", ("resnet18.tv_in1k", "wide_resnet50_2.tv_in1k", "tf_efficientnet_b5.", "tf_efficientnet_b4.")),
        ("strategies", strategy_names()),
        ("protocols", tuple(PROTOCOLS)),
        ("tables", ("table1", "table8", "seeds", "gaps", "pro", "strategies")),
        ("datasets", ("mvtec-ad", "demo", "folder", *MVTEC_TEXTURES, *MVTEC_OBJECTS)),
    ],
)
def test_list_names_what_there_is(cli: CommandLine, what: str, names: tuple[str, ...]) -> None:
    reply = cli("list", what)
    assert (reply.code, reply.err) == (0, "")
    for name in names:
        assert name in reply.out


def test_a_reader_that_stops_reading_is_no_fault() -> None:
    process = start("list", "tables")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.wait(300), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_doctor_judges_every_operation_at_every_size(cli: CommandLine) -> None:
    reply = cli("doctor", "--threads", 1, "--json")
    assert reply.code == 0
    document = reply.document
    assert {"os", "cpu", "blas", "python", "versions"} <= set(document["environment"])
    assert document["environment"]["threads"] == 1
    checks = {(check["operation"], check["d"], check["dtype"]): check for check in document["checks"]}
    assert len(checks) == len(document["checks"]) == 30
    for (name, _, dtype), check in checks.items():
        if check["right"] is None:  # on a machine with too much else to do
            assert check["problem"].startswith("not tried")
            continue
        limit = 1e-8 if dtype == "float64" else 1e-2
        found = check["problem"] is None and check["residual"] is not None and check["residual"] <= limit
        assert check["right"] == found, check
        if name in {"batched Cholesky", "batched triangular solve"}:  # what every exact strategy relies on
            assert check["right"], check
    assert checks["batched Cholesky", 100, "float32"]["right"]
    assert document["advice"].startswith(("Avoid here: ", "Nothing to avoid here"))


def test_data_demo_draws_a_dataset_that_verify_accepts_and_run_reads(
    cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in ("TRAIN", "TEST_GOOD", "PER_DEFECT"):
        monkeypatch.setattr(images, count, 2)
    root = tmp_path / "drawn"
    reply = cli("data", "demo", "--root", root, "--seed", 3)
    assert reply.code == 0
    assert f"--data {root}" in reply.out
    assert cli("data", "verify", "--root", root).code == 0
    verified = cli("data", "verify", "--data", root, "--json")
    assert verified.code == 0
    found = {c["name"] for c in verified.document["categories"] if c["present"]}
    assert found == set(DEMO_CATEGORIES)
    command = ("run", "--data", root, "--categories", "weave", "--backbone", "resnet18", "--weights", "random")
    (run,) = cli(*command, "--n-features", 20, "--results", tmp_path, "--json").runs
    assert run["config"]["dataset"] == "demo"


def test_data_demo_never_overwrites(cli: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "gear").mkdir()
    assert_refused(cli("data", "demo", "--root", tmp_path), tmp_path / "gear")
    assert_refused(cli("data", "demo", "--root", tmp_path / "new", "--seed", "-1"), "-1")


def test_data_verify_names_what_is_missing(cli: CommandLine, bottle: Path) -> None:
    (bottle / "ground_truth" / "rust" / "000_mask.png").unlink()
    reply = cli("data", "verify", "--root", bottle.parent)
    assert reply.code == 2
    assert "train: 6 images, expected 209" in reply.out
    assert f"no mask for {bottle / 'test' / 'rust' / '000.png'}: expected" in reply.out
    (line,) = reply.err.splitlines()
    assert line.startswith("padim-bench: error: ")
    assert "bottle" in line


def test_data_verify_refuses_what_is_no_dataset(cli: CommandLine, tmp_path: Path) -> None:
    assert_refused(cli("data", "verify", "--root", tmp_path / "nowhere"), tmp_path / "nowhere")
    assert_refused(cli("data", "verify", "--root", tmp_path), tmp_path)
    assert_refused(cli("data", "verify"), "--root")


def test_a_refused_connection_tells_how_to_get_the_data_by_hand(cli: CommandLine, tmp_path: Path) -> None:
    reply = cli("data", "download", "mvtec-ad", "--root", tmp_path, "--url", "http://127.0.0.1:9/archive.tar.xz")
    assert reply.code == 2
    assert "CC BY-NC-SA 4.0" in reply.out
    (line,) = reply.err.splitlines()
    assert line.startswith("padim-bench: error: ")
    for advice in ("http://127.0.0.1:9/archive.tar.xz", "by hand", "https://www.mvtec.com", "--archive"):
        assert advice in line


def test_an_unknown_dataset_is_not_downloaded(cli: CommandLine, tmp_path: Path) -> None:
    assert_refused(cli("data", "download", "imagenet", "--root", tmp_path), "imagenet", "mvtec-ad")


def test_an_archive_that_is_another_file_is_refused(cli: CommandLine, tmp_path: Path) -> None:
    archive = tmp_path / "mvtec_anomaly_detection.tar.xz"
    archive.write_bytes(b"not it")
    reply = cli("data", "download", "mvtec-ad", "--root", tmp_path / "data", "--archive", archive)
    assert reply.code == 2
    assert "sha256" in reply.err
    assert archive.read_bytes() == b"not it"


def test_records_are_json_that_any_reader_accepts(results: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert record_files(results)
    for path in record_files(results):
        json.loads(path.read_text(), parse_constant=refuse)
