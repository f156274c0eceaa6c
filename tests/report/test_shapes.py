"""Specs: one that is not as it must be is refused in a line that names the file, the member and the mend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from padim_bench import PadimBenchError
from padim_bench.report import spec
from padim_bench.report.costs import load_measured_spec
from padim_bench.report.shapes import LAYOUTS
from padim_bench.report.spec import described, load_spec, load_toml
from padim_bench.reproduction.kinds import KINDS, PROFILES, kind_of


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of all specs, which may be spoilt."""
    folder = tmp_path / "reproduce"
    shutil.copytree(spec.specs_folder(), folder)
    monkeypatch.setattr(spec, "specs_folder", lambda: folder)
    monkeypatch.setattr("padim_bench.report.costs.specs_folder", lambda: folder)
    return folder


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("table3", 'layout = "categories"', "", "layout: None is none of"),
        ("table3", 'layout = "categories"', "layout = []", "layout: [] is none of"),
        ("table3", 'arch = "resnet18"', "", "models.0.arch: field required"),
        ("table3", "n_features = 100", 'n_features = "100"', "models.0.n_features: "),
        ("table3", "n_features = 100", "n_feature = 100", "models.0.n_feature: "),
        ("table3", "n_features = 100", "n_features = 0", "models.0.n_features: "),
        ("table3", 'key = "pro"', 'key = "por"', "metric 'por' is none of"),
        ("table4", 'dataset = "stc"', 'dataset = "sct"', "dataset 'sct' is none of"),
        ("seeds", 'reduction = "random"', 'reduction = "rnd"', "reduction 'rnd' is none of"),
        ("seeds", 'reference = "all (448)"', "", "reference: field required"),
        ("gaps", 'crop = "none"', 'crops = "none"', "choices.0.crops: "),
        ("gaps", 'from = "paper"', 'form = "paper"', "walks.0."),
        ("gaps", 'presets = ["paper"', 'preset = ["paper"', "presets: field required"),
        ("pro", 'rival = "SPADE"', "", "rival: field required"),
        ("pro", "walk = [", "walks = [", "walk: field required"),
        ("shots", "draws = 5", "draw = 5", "draws: field required"),
        ("strategies", "dtypes = ", "dtype = ", "dtypes: field required"),
        ("table7", 'strategies = ["auto"]', 'strategies = "auto"', "models.0.strategies: "),
        ("table8", "grid = 56", "grid = 56.5", "datasets.0.grid: "),
    ],
)
def test_what_is_wrong_in_a_spec_is_named(specs: Path, name: str, before: str, after: str, said: str) -> None:
    path = specs / f"{name}.toml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(PadimBenchError) as caught:
        load_toml(name)
    message = str(caught.value)
    assert str(path) in message
    assert said in message
    assert "restore it from the repository" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["table7", "table3"])
def test_a_spec_without_the_papers_numbers_is_named(specs: Path, name: str) -> None:
    (specs / "paper" / f"{name}.csv").unlink()
    with pytest.raises(PadimBenchError, match=f"{name}.toml is not valid"):
        load_measured_spec(name) if name == "table7" else load_spec(name)


def test_layers_in_a_spec_may_be_a_list() -> None:
    assert described({"arch": "resnet18", "layers": ["layer1", "layer2"]}).layers == ("layer1", "layer2")


def test_every_kind_of_page_has_the_shape_of_its_specs() -> None:
    assert set(LAYOUTS) == set(KINDS) - {PROFILES}
    assert {kind_of(name) for name in spec.table_names()} <= set(KINDS.values())
