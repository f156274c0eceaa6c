"""``padim-bench profile``: time, memory and accuracy of configurations, each in its own process."""

from __future__ import annotations

import argparse

from padim_bench.cli.options import (
    add_layout,
    add_models,
    add_pages,
    add_shared,
    check_models,
    data_root,
    open_categories,
    run_protocol,
    run_settings,
)
from padim_bench.cli.output import Output, say
from padim_bench.cli.parsing import Commands, positive, sizes
from padim_bench.errors import PadimBenchError


def add_to(commands: Commands) -> None:
    """Adds ``profile`` to the commands."""
    parser = commands.add_parser("profile", help="time, memory and accuracy of configurations, each in its own process")
    add_shared(parser)
    add_layout(parser)
    add_models(parser, ["cholesky", "woodbury"])
    parser.add_argument(
        "--batch-sizes", type=sizes, default=[1, 8, 32], metavar="N[,N]", help="images scored at a time; 1 always is"
    )
    parser.add_argument("--n-images", type=positive, default=100, metavar="N", help="timed at every batch size")
    add_pages(parser)
    parser.set_defaults(command=profile_models)


def profile_models(arguments: argparse.Namespace, output: Output) -> None:
    """Profiles every combination of the options over one category, and prints a summary."""
    root, results = data_root(arguments), arguments.results
    if arguments.categories is not None and len(arguments.categories) != 1:
        raise PadimBenchError("--categories: profiles are of one category; name one, as bottle")
    if len(arguments.seed) != 1:
        raise PadimBenchError("--seed: profiles are of one drawing of channels; give one seed")
    settings = run_settings(arguments)

    from padim_bench.costs.measure import ProfileSettings, check_needs, plan_profiles
    from padim_bench.data.mvtec import list_categories
    from padim_bench.padim.config import PaDiMConfig
    from padim_bench.padim.weights import resolve_weights
    from padim_bench.records.config import Execution
    from padim_bench.records.costs import to_dict
    from padim_bench.reproduction.profiles import run_profiles
    from padim_bench.reproduction.reproduce import REAL_THING, demo_categories

    check_models(arguments)
    weights = [resolve_weights(name, arguments.weights) for name in arguments.backbone]
    if root is None:
        results = results / "demo"
        say("no --data: profiling on the demo dataset, which is drawn, not photographed")
        category = demo_categories(results, arguments.categories)[0]
    else:
        arguments.categories = arguments.categories or list_categories(root, normal=arguments.normal)[:1]
        (category,) = open_categories(root, arguments)
    protocol = run_protocol(arguments)
    shared = PaDiMConfig(seed=arguments.seed[0], half_products=arguments.half_products, protocol=protocol)
    models = plan_profiles(shared, weights, arguments.n_features, arguments.strategy, arguments.storage, say)
    chosen = ProfileSettings(
        # Images at a time as Tables VII and VIII have them, whatever the device, so that they share the measurements.
        Execution(settings.execution.device, settings.execution.threads),
        batch_sizes=tuple(arguments.batch_sizes),
        n_images=arguments.n_images,
    )
    check_needs(category, models, chosen, on_message=say)
    for one in weights:
        if not one.trained:
            say(f"{one.arch}: UNTRAINED random weights: accuracy means nothing, time and memory do")
    done = run_profiles(category, models, chosen, results=results, on_message=say)
    if arguments.print:
        output.pages([done.page])
    for line in done.summary():
        output.text(line)
    output.text(f"{(results / 'README.md').as_posix()} links it all")
    if root is None:
        output.text(REAL_THING)
    output.document(
        {
            "dataset": category.dataset,
            "category": category.name,
            "files": [p.as_posix() for p in done.files],
            "profiles": [
                to_dict(p.record) | {"resumed": p.resumed, "record": p.path.as_posix()} for p in done.profiles
            ],
        }
    )
