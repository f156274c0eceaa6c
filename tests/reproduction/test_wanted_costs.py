"""Which costs Tables VII and VIII want, and that they find them among others."""

from __future__ import annotations

from padim_bench.protocols import get_protocol
from padim_bench.records.merged import Evidence
from padim_bench.report.costs import load_measured_spec
from padim_bench.reproduction.kinds import Choice, kind_of, wanted_costs
from tests.drawn_records import cost, growth, run_config, sizes

CHOICE = Choice(get_protocol("paper"))
VII, VIII = load_measured_spec("table7"), load_measured_spec("table8")


def test_of_the_demo_both_tables_want_the_same_costs() -> None:
    brief = wanted_costs(VII, brief=True)
    assert brief == wanted_costs(VIII, brief=True)
    assert [(m.backbone, m.strategy, m.protocol.name) for m in brief] == [
        ("resnet18", "auto", "paper"),
        ("wide_resnet50_2", "auto", "paper"),
    ]


def test_table_viii_wants_both_sizes_of_images_and_table_vii_one_of_its_costs() -> None:
    wanted = wanted_costs(VIII)
    assert [(m.strategy, m.protocol.name) for m in wanted if m.backbone == "resnet18"] == [
        ("auto", "paper"), ("cholesky", "paper"), ("auto", "paper-stc"), ("cholesky", "paper-stc"),
    ]  # fmt: skip
    assert set(wanted_costs(VII)) < set(wanted)


def test_a_table_takes_the_costs_that_it_wants_in_its_order_and_no_others() -> None:
    own = {"seed": 1024}
    auto, cholesky = cost(run_config(strategy="auto", **own)), cost(run_config(strategy="cholesky", **own))
    stc = cost(run_config(strategy="auto", protocol=get_protocol("paper-stc"), **own))
    others = [
        cost(run_config(strategy="woodbury", **own)),
        cost(run_config(strategy="auto", seed=0)),
        cost(run_config(strategy="auto", storage="float16", **own)),
    ]
    grown = growth(run_config(strategy="auto", **own))
    evidence = Evidence((), (*others, stc, cholesky, auto), (grown, growth(run_config(strategy="auto"))), (sizes(),))
    page = kind_of("table7").page("table7", evidence, CHOICE)
    assert page is not None
    rows = [row for title, grid in page.sections if title.startswith("Inference, one") for row in grid.rows]
    assert [row[2] for row in rows if row[0] == "R18-Rd100"] == ["auto (whitening)"]
    growths = [row for title, grid in page.sections if "by number" in title for row in grid.rows]
    assert [row[2] for row in growths] == ["auto (woodbury)", "cholesky"]
    assert page.csv.count(auto.id[:12]) > 0
    assert not any(one.id[:12] in page.csv for one in (*others, stc, cholesky))
