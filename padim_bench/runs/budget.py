"""What a unit of work would hold in memory, and how it is run where that passes the limit.

The limit is of bytes that grow with the number of images: decoded images, features, copies of them, maps
and masks. All of a unit is held where it fits. Where it does not, images are decoded and thrown away batch by
batch, and an embedding's training features are held or, where that is less, folded into running moments;
configurations whose embeddings fit together share a pass, the others take turns. A model's own moments and
state, P * D^2 numbers whatever the number of images, are counted where they can be chosen, and told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from padim_bench.data.drawn import Drawn, count_of
from padim_bench.data.loading import mask_pixels
from padim_bench.errors import PadimBenchError
from padim_bench.evaluation import BYTES_PER_PIXEL
from padim_bench.padim.config import PADIM
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.footprint import NETWORK, Need, Network, at_worst, fit_work, smaller, told
from padim_bench.padim.half import multiplies
from padim_bench.padim.model import COMPUTE_DTYPES
from padim_bench.padim.moments import LOT_BYTES
from padim_bench.padim.reduction import REDUCTIONS, WHOLE, reduced_embedding
from padim_bench.padim.sharing import moments_bytes, selected_bytes, share, sized_embedding
from padim_bench.padim.strategies import STORAGE_DTYPES, get_strategy
from padim_bench.records.config import RunConfig
from padim_bench.runs.features import union_of_channels
from padim_bench.runs.methods import baseline_of, cost_of, has_maps
from padim_bench.runs.unit import Unit, layers_of

if TYPE_CHECKING:
    from padim_bench.runs.images import ImageUnit
    from padim_bench.runs.session import Session

# The whole state is read once for each batch of distances, so these are larger than the backbone's.
SCORED_AT_ONCE = 32
# Of StreamingROC and StreamingPRO.
HISTOGRAM_BYTES = 33 << 20
# Principal components are of so many positions of all images at a time: float32, and the copy in float64.
_PCA_BYTES_PER_CHANNEL = 256 * 12

Members = tuple[str, ...]
# What decides what is kept of an embedding's training images: the layers, how they are reduced, the dtype of the means,
# the method, and of which images.
Key = tuple[Members, str, int | None, int, str, str, Drawn | None]


def members(config: RunConfig) -> list[Members]:
    """The layers of each model of a configuration: one model, or for a sum of maps one per layer."""
    return [(name,) for name in config.layers] if config.model.fusion == "sum" else [config.layers]


def key(config: RunConfig, names: Members) -> Key:
    """Configurations that share it differ only in what is made of the same training moments."""
    model = config.model
    return names, model.reduction, model.n_features, model.seed, model.compute_dtype, model.method, config.trained


class Layouts:
    """Embeddings of a unit's configurations, and what they weigh."""

    def __init__(self, unit: Unit, session: Session) -> None:
        channels, grids = session.maps(unit)  # of all layers together, as they will be run
        self._channels = dict(zip(layers_of(unit), channels, strict=True))
        self._grids = dict(zip(layers_of(unit), grids, strict=True))

    def embedding(self, config: RunConfig, names: Members, components: Tensor | None = None) -> PatchEmbedding:
        """The embedding of one member of a configuration; a learned one needs its components."""
        return reduced_embedding(
            tuple(self._channels[name] for name in names),
            tuple(self._grids[name] for name in names),
            config.model.reduction,
            config.model.n_features,
            config.model.seed,
            components,
        )

    def whole(self, names: Members) -> PatchEmbedding:
        """All channels of those layers."""
        channels = tuple(self._channels[name] for name in names)
        return reduced_embedding(channels, tuple(self._grids[name] for name in names), WHOLE)

    def kept(self, configs: Sequence[RunConfig]) -> dict[str, Tensor]:
        """Per layer, the channels that any of ``configs`` needs: projections, whichever they are, need all."""
        return union_of_channels(
            [
                (
                    names,
                    self.whole(names) if REDUCTIONS[c.model.reduction].needs_all_channels else self.embedding(c, names),
                )
                for c in configs
                for names in members(c)
            ]
        )

    def kept_bytes(self, configs: Sequence[RunConfig]) -> int:
        """Of the features of one image that any of ``configs`` needs."""
        return sum(4 * len(channels) * prod(self._grids[name]) for name, channels in self.kept(configs).items())

    def one(self, one: Key) -> PatchEmbedding:
        """An embedding as large as that of a key; of principal components with other numbers."""
        names, reduction, n_features, seed, *_ = one
        channels = tuple(self._channels[name] for name in names)
        grids = tuple(self._grids[name] for name in names)
        return sized_embedding(channels, grids, reduction, n_features, seed)

    def copied_bytes(self, config: RunConfig, names: Members, kept: Mapping[str, Tensor], n: int) -> int:
        """Of ``n`` images' features, what is copied for one member out of the channels ``kept`` of each layer.

        The largest layer is read where it lies if all that is held of it is the member's; few images' are copied.
        """
        one = self.one(key(config, names))
        whole = n * selected_bytes(one)
        if one.projection is not None or config.trained is not None or whole < LOT_BYTES:
            return whole
        seen = sum(
            4 * n * len(own) * prod(grid)
            for name, grid, own in zip(names, one.layer_grids, one.local_channels, strict=True)
            if prod(grid) == one.n_positions and len(own) == len(kept[name])
        )
        return whole - seen

    def state_bytes(self, config: RunConfig, n: int) -> int:
        """Of what the configuration stores, fitted to ``n`` images."""
        if (baseline := baseline_of(config.model.method)) is not None:
            return baseline.state_bytes(self.whole(config.layers), n)
        total = 0
        for one in (self.one(key(config, names)) for names in members(config)):
            storage = config.model.storage
            native = multiplies(STORAGE_DTYPES[storage], torch.device(config.execution.device))
            strategy = get_strategy(config.model.strategy, n, one.n_features, native=native)
            total += one.n_positions * strategy.state_bytes(n, one.n_features, STORAGE_DTYPES[storage])
        return total


@dataclass(frozen=True)
class Group:
    """Configurations that share a pass over the training images.

    Attributes:
        configs: in order.
        room: bytes of features of each embedding that are held before they are folded; None: all.
        tested_held: whether features of the test images are held, from one pass; else one each.
        needed: bytes.
    """

    configs: tuple[RunConfig, ...]
    room: dict[Key, int | None]
    tested_held: bool
    needed: int


@dataclass(frozen=True)
class Plan:
    """How a unit is run within the limit.

    Attributes:
        whole: bytes that would be held at once to hold everything; ``held`` says that it is done.
        groups: of configurations, one after the other; all in one where everything is held.
        needed: bytes that are held at most.
        exact: per resolution of the masks, whether maps are held for exact pixel metrics.
        map_bytes: per resolution, what these take.
    """

    whole: int
    held: bool
    groups: tuple[Group, ...]
    needed: int
    exact: dict[tuple[object, ...], bool]
    map_bytes: dict[tuple[object, ...], int]


def plan_unit(unit: ImageUnit, session: Session) -> Plan:
    """What running the unit holds, from sizes known in advance. Raises PadimBenchError for what never fits."""
    layouts, limit = Layouts(unit, session), unit.settings.memory_limit
    n_train, n_test = len(unit.category.train), len(unit.category.test)
    pixels: dict[tuple[object, ...], int] = {}
    for config in unit.configs:
        if (choices := config.protocol.mask_choices) not in pixels:
            pixels[choices] = mask_pixels(unit.category, config.protocol) if unit.category.has_masks else 0

    def map_bytes(config: RunConfig) -> int:
        return BYTES_PER_PIXEL * pixels[config.protocol.mask_choices] if has_maps(config) else 0

    def alone(config: RunConfig) -> int:
        """What one configuration adds while it runs, where all features are held."""
        selected = sum(selected_bytes(layouts.one(key(config, names))) for names in members(config))
        channels = max(layouts.whole(names).n_features for names in members(config))
        pca = _PCA_BYTES_PER_CHANNEL * n_train * channels if REDUCTIONS[config.model.reduction].learned else 0
        n_used = count_of(config.trained, n_train)
        own = 0 if baseline_of(config.model.method) is None else layouts.state_bytes(config, n_used)
        return max(max(n_train, n_used) * selected + own, pca, map_bytes(config) + own)

    size = unit.configs[0].protocol.size
    of_maps = {choices: BYTES_PER_PIXEL * n for choices, n in pixels.items()}
    whole = (n_train + n_test) * (3 * size**2 + layouts.kept_bytes(unit.configs)) + max(map(alone, unit.configs))
    if whole <= limit:
        everything = Group(unit.configs, {}, tested_held=True, needed=whole)
        return Plan(whole, True, (everything,), whole, dict.fromkeys(pixels, True), of_maps)

    exact = {choices: BYTES_PER_PIXEL * n <= max(limit // 2, HISTOGRAM_BYTES) for choices, n in pixels.items()}
    for config in unit.configs:
        if config.extras and not exact[config.protocol.mask_choices]:
            raise PadimBenchError(
                f"{unit.category.name}: {', '.join(config.extras)} need all anomaly maps at once, "
                f"{told(map_bytes(config))}: give --memory-limit twice that"
            )

    def tested(configs: Sequence[RunConfig]) -> tuple[int, bool]:
        """Bytes of what is tested, and whether all features are held."""
        maps = max(map_bytes(c) if exact[c.protocol.mask_choices] else HISTOGRAM_BYTES for c in configs)
        if maps + (features := n_test * layouts.kept_bytes(configs)) <= limit // 2:
            return maps + features, True
        return maps + min(SCORED_AT_ONCE, n_test) * max(layouts.kept_bytes([c]) for c in configs), False

    def keys(configs: Sequence[RunConfig]) -> list[Key]:
        return list(dict.fromkeys(key(c, names) for c in configs for names in members(c)))

    def group(configs: Sequence[RunConfig]) -> Group:
        test_bytes, tested_held = tested(configs)
        costs = [
            cost_of(one[5], layouts.one(one), one[4], count_of(one[6], n_train), unit.settings.execution.batch_size)
            for one in keys(configs)
        ]
        rooms, used = share(costs, limit - test_bytes)
        return Group(tuple(configs), dict(zip(keys(configs), rooms, strict=True)), tested_held, used + test_bytes)

    groups = in_groups(unit.configs, group, limit)
    return Plan(whole, False, groups, max(g.needed for g in groups), exact, of_maps)


def in_groups(
    configs: Sequence[RunConfig], group: Callable[[Sequence[RunConfig]], Group], limit: int
) -> tuple[Group, ...]:
    """Configurations in order, as many to a :class:`Group` as fit the limit, or add nothing where one does not."""
    groups: list[Group] = []
    current: list[RunConfig] = []
    for config in configs:
        if current and group([*current, config]).needed > max(limit, group(current).needed):
            groups.append(group(current))
            current = []
        current.append(config)
    groups.append(group(current))
    return tuple(groups)


def statements(unit: ImageUnit, session: Session) -> list[str]:
    """Lines to say before the unit runs: that it is not held as a whole, and that a model alone passes the limit."""
    plan, layouts, limit = plan_unit(unit, session), Layouts(unit, session), unit.settings.memory_limit
    n_train, n_test = len(unit.category.train), len(unit.category.test)
    lines = []
    if not plan.held:
        fold = any(room is not None for room in chain.from_iterable(g.room.values() for g in plan.groups))
        how = "decoded batch by batch" + (", features folded into running moments" if fold else "")
        if len(plan.groups) > 1:
            how += f", configurations in {len(plan.groups)} groups with a pass each"
        if not all(plan.exact.values()):
            how += ", pixel metrics from histograms with an error bound"
        lines.append(
            f"{unit.category.name}, {unit.weights.arch}: {n_train:,} training and {n_test:,} test images would take "
            f"{told(plan.whole)}, over the limit of {told(limit)} (--memory-limit): {how}; about {told(plan.needed)} "
            "needed beside the model"
        )

    def own_bytes(config: RunConfig) -> int:
        return layouts.state_bytes(config, count_of(config.trained, n_train))

    heaviest = max(unit.configs, key=own_bytes)
    if (own := own_bytes(heaviest)) > limit and heaviest.model.method != PADIM:
        lines.append(
            f"{heaviest.model_name}: holds {told(own)} of its {count_of(heaviest.trained, n_train):,} training images, "
            f"over the limit of {told(limit)}: --method padim takes less"
        )
    elif own > limit:
        lines.append(
            f"{heaviest.model_name} {heaviest.model.strategy} {heaviest.model.storage}: the model itself takes "
            f"{told(own)} whatever the number of images, over the limit of {told(limit)}: a smaller --n-features, "
            "--storage float16 or --strategy auto takes less"
        )
    return lines


def need_of(unit: ImageUnit, session: Session, before: int = 0) -> Need:
    """What the process takes for the unit's heaviest configuration, beside what it holds already.

    ``before`` are bytes of features that the unit before may have left, which stay within the limit.
    """
    plan, layouts, settings = plan_unit(unit, session), Layouts(unit, session), unit.settings
    n_train, n_test = len(unit.category.train), len(unit.category.test)
    network, threads = network_of(unit, session), settings.execution.threads
    kept = layouts.kept(unit.configs)
    images = (n_train + n_test) * 3 * unit.configs[0].protocol.size ** 2
    features = (n_train + n_test) * layouts.kept_bytes(unit.configs)
    features += max(0, min(before, settings.memory_limit - plan.whole))

    def need(config: RunConfig) -> Need:
        n = count_of(config.trained, n_train)
        state = layouts.state_bytes(config, n)
        parts = [(names, layouts.one(key(config, names))) for names in members(config)]
        work = {NETWORK: network.room(fit_work(n, max(one.n_features for _, one in parts), threads))}
        what = f"{unit.category.name}, {_model_of(config)}"
        if not plan.held:
            (group,) = [group for group in plan.groups if config in group.configs]
            beside = {"features, moments and maps": group.needed}
            left = state - consumed(group, layouts, config, state)
            return at_worst(what, beside | {NETWORK: network.bytes}, beside | work | {"state": left})
        held = {"images": images, "features": features}
        copied = sum(layouts.copied_bytes(config, names, kept, max(n_train, n)) for names, _ in parts)
        channels = max(layouts.whole(names).n_features for names, _ in parts)
        pca = _PCA_BYTES_PER_CHANNEL * n_train * channels if REDUCTIONS[config.model.reduction].learned else 0
        return at_worst(
            what,
            held | {NETWORK: network.bytes},
            held | work | {"components": pca},
            held | work | {"features": features + copied, "state": state},
            held | work | {"maps": plan.map_bytes[config.protocol.mask_choices] * has_maps(config), "state": state},
        )

    heaviest, config = max(((need(config), config) for config in unit.configs), key=lambda found: found[0].bytes)
    return replace(heaviest, mends=mends(heaviest, config, layouts, count_of(config.trained, n_train)))


def consumed(group: Group, layouts: Layouts, config: RunConfig, state: int) -> int:
    """Of the moments that a group counts, bytes that go as the state of ``config`` comes: where no other needs them."""
    alone = [key(config, names) for names in members(config)]
    uses = [key(other, names) for other in group.configs for names in members(other)]
    if any(uses.count(one) > 1 or group.room[one] is None for one in alone):
        return 0
    dtype = COMPUTE_DTYPES[config.model.compute_dtype]
    moments = sum(moments_bytes(e.n_positions, e.n_features, dtype) for e in map(layouts.one, alone))
    return min(moments, state)


def network_of(unit: Unit, session: Session) -> Network:
    """What the unit's network takes while it runs."""
    size, batch_size = unit.configs[0].protocol.size, unit.settings.execution.batch_size
    return Network.of(session.backbone(unit).working_bytes(size), batch_size)


def _model_of(config: RunConfig) -> str:
    if config.model.method != PADIM:
        return config.model_name
    return f"{config.model_name} {config.model.strategy} {config.model.storage}"


def mends(need: Need, config: RunConfig, layouts: Layouts, n: int) -> tuple[tuple[str, int | None], ...]:
    """What makes a configuration of ``n`` training images smaller, with all that it then takes where that is known."""
    found, state = list[tuple[str, int | None]](), need.parts.get("state", 0)
    if config.model.method == PADIM and state > need.bytes // 4:
        whole = layouts.state_bytes(config, n)
        for how, strategy, storage in smaller(config.model.strategy, config.model.storage):
            other = replace(config, model=replace(config.model, strategy=strategy, storage=storage))
            if (total := need.bytes - whole + layouts.state_bytes(other, n)) < need.bytes:
                found.append((how, total))
        found.append(("fewer --n-features", None))
    found.append(("a smaller --crop", None))
    if state < need.bytes // 2:
        found.append(("a lower --memory-limit or --batch-size", None))
    return tuple(found)
