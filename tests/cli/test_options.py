"""The options that run, fit and profile share: one spelling, older ones still accepted."""

from __future__ import annotations

import pytest

from padim_bench.cli.program import make_parser
from padim_bench.cli.run import drawn_images
from padim_bench.data.drawn import Drawn
from padim_bench.errors import PadimBenchError

MODELS = ("backbone", "n_features", "seed", "strategy", "storage")


def parsed(command: str, *words: str) -> dict[str, object]:
    """What the words stand for, of which models."""
    needed = ("--save", "m.safetensors") if command == "fit" else ()
    arguments = vars(make_parser().parse_args([command, *needed, *words]))
    return {name: arguments[name] for name in MODELS}


@pytest.mark.parametrize("command", ["run", "fit", "profile"])
@pytest.mark.parametrize(
    ("option", "older", "value", "meant"),
    [
        ("--backbone", "--backbones", "resnet18,resnet34.a1_in1k", ["resnet18", "resnet34.a1_in1k"]),
        ("--strategy", "--strategies", "woodbury,dual", ["woodbury", "dual"]),
        ("--storage", "--dtype", "float16,bfloat16", ["float16", "bfloat16"]),
        ("--storage", "--dtypes", "float16,bfloat16", ["float16", "bfloat16"]),
    ],
)
def test_an_older_spelling_means_what_the_name_means(
    command: str, option: str, older: str, value: str, meant: list[str]
) -> None:
    needed = () if option == "--backbone" else ("--backbone", "resnet18")
    assert parsed(command, *needed, option, value)[option.removeprefix("--")] == meant
    assert parsed(command, *needed, older, value) == parsed(command, *needed, option, value)


def test_training_images_are_drawn_as_the_words_say() -> None:
    def drawn(*words: str) -> list[Drawn | None]:
        return drawn_images(make_parser().parse_args(["run", "--backbone", "resnet18", *words]))

    assert drawn() == [None]
    assert drawn("--train-images", "8,1") == [Drawn(8, 0), Drawn(1, 0)]
    words = ("--train-images", "all,8,bootstrap", "--train-draw", "2,3")
    resamples = [Drawn(None, draw, replaced=True) for draw in (2, 3)]
    assert drawn(*words) == [None, Drawn(8, 2), Drawn(8, 3), *resamples]
    with pytest.raises(PadimBenchError, match="--train-draw: all training images are no draw"):
        drawn("--train-draw", "1")
    with pytest.raises(PadimBenchError, match="argument --train-images: '0' is not between 1 and"):
        drawn("--train-images", "0")


def test_run_fit_and_profile_understand_the_same_words_alike() -> None:
    words = ("--backbone", "a,b", "--n-features", "10,all", "--seed", "3", "--strategy", "dual", "--storage", "float16")
    assert parsed("run", *words) == parsed("profile", *words) == parsed("fit", *words)
    assert parsed("run", *words)["n_features"] == [10, None]


@pytest.mark.parametrize("command", ["run", "fit", "profile"])
def test_help_shows_the_name_and_no_older_spelling(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args([command, "--help"])
    shown = capsys.readouterr().out.split()
    assert {"--backbone", "--strategy", "--storage"} <= set(shown)
    assert not {"--backbones", "--strategies", "--dtype", "--dtypes"} & {word.strip("[],") for word in shown}


@pytest.mark.parametrize("command", ["run", "fit", "profile"])
def test_a_bad_value_is_refused_by_the_name_of_its_option(command: str) -> None:
    with pytest.raises(PadimBenchError, match=f"argument --backbone: ',' names nothing: see 'padim-bench {command} "):
        parsed(command, "--backbones", ",")
    with pytest.raises(PadimBenchError, match="the following arguments are required: --backbone:"):
        parsed(command)


def test_fit_has_every_option_of_a_model_that_run_has() -> None:
    def options(command: str) -> dict[str, object]:
        needed = ("--save", "m.safetensors") if command == "fit" else ()
        return vars(make_parser().parse_args([command, "--backbone", "resnet18", *needed]))

    # What is of test images, of several models, or of records; a sum of maps is of several models.
    not_fitted = {"compare_at", "results", "executor", "method", "fusion", "train_images", "train_draw", "save_maps",
                  "maps_at", "save_masks", "gallery"}  # fmt: skip
    run, fit = options("run"), options("fit")
    assert run.keys() - not_fitted - fit.keys() == set()
    shared = (run.keys() & fit.keys()) - {"command", "command_name"}
    assert {name: run[name] for name in shared} == {name: fit[name] for name in shared}
