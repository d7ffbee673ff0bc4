"""The weight-sharing supernet and the networks cut out of it (torch).

A smaller network uses the first n channels of every dimension, the centre of every kernel and the
first d blocks of every stage. One forward, driven by a plan, serves supernet and subnet alike: in
the supernet every layer takes a slice (a view) of its tensors, in a subnet they fit as they are.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ramnas_models.errors import DataError
from ramnas_models.plan import (
    Conv,
    Layer,
    Linear,
    MBConv,
    Pads,
    Plan,
    Shortcut,
    SqueezeExcite,
    expanded,
    plan,
    widened,
)
from ramnas_models.recalibration import (
    Controlled,
    Estimate,
    Known,
    Observer,
    Pooled,
    Reference,
    parts,
)
from ramnas_models.space import Arch, Space

if TYPE_CHECKING:
    from typing_extensions import Self

    from ramnas_models.head_plan import AnyPlan

logger = logging.getLogger(__name__)

_NO_PADS = Pads(0, 0, 0, 0)

# When BatchNorm is recalibrated, images are run together until some layer writes this many numbers
# (128 MiB in float32), but at least so many images. Of space micro at 48 pixels 900 fit.
GROUP_ELEMENTS = 2**25
GROUP_IMAGES = 256
# Networks of the recipe digits-small have 1 to 2.6 points less top-1 with 32 images than with 64.
# More than 64 change it by 1.6 points at most, up or down, on the 500 selection images.
MIN_IMAGES = 64


def _own(source: nn.Module | None, name: str, shape: tuple[int, ...], fill: float = 0.0) -> Tensor:
    """A new tensor: filled, or cut out of attribute `name` of `source` as `forward` slices it."""
    if source is None:
        return torch.full(shape, fill)
    whole: Tensor = getattr(source, name).detach()
    if len(shape) == 4:  # kernels are cropped around their centre
        edge = (whole.shape[2] - shape[2]) // 2
        whole = whole[:, :, edge : edge + shape[2], edge : edge + shape[3]]
    return whole[tuple(map(slice, shape))].clone()


@dataclass(frozen=True)
class DropRates:
    """How much the max net leaves out at random in training (BigNAS, as AttentiveNAS does it).

    `dropout` is the share of the features before the classifier. `connect` is the share of the
    images that skip a block, in blocks of the last two stages that have a shortcut. It grows in
    proportion to the block's place in the network and would reach `connect` behind the last block.
    """

    dropout: float = 0.0
    connect: float = 0.0

    def skip_rate(self, place: int, plan: Plan) -> float:
        """The share of images that skip block `place` of `plan`, if it has a shortcut."""
        late = plan.blocks[place].stage >= plan.blocks[-1].stage - 1
        return self.connect * place / len(plan.blocks) if late else 0.0


class BatchNorm(nn.Module):
    """The tensors of nn.BatchNorm2d, without its counter of batches."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, source: BatchNorm | None) -> None:
        super().__init__()
        shape = (channels,)
        self.weight = nn.Parameter(_own(source, "weight", shape, 1.0))
        self.bias = nn.Parameter(_own(source, "bias", shape))
        self.register_buffer("running_mean", _own(source, "running_mean", shape))
        self.register_buffer("running_var", _own(source, "running_var", shape, 1.0))

    def reset(self, gamma: float) -> None:
        """The values of a new network: `gamma`, no shift, and the statistics of white noise."""
        nn.init.constant_(self.weight, gamma)
        nn.init.zeros_(self.bias)
        self.running_mean.zero_()
        self.running_var.fill_(1.0)


class ElasticConv(nn.Module):
    """A convolution, BatchNorm or bias, activation; `layer` says how much of the tensors to use.

    In training BatchNorm uses the statistics of the batch and leaves the running ones alone. Only
    `recalibrate` fills those, because subnets of different width do not share statistics.
    """

    bn: BatchNorm | None

    def __init__(self, layer: Conv, source: ElasticConv | None) -> None:
        super().__init__()
        shape = (layer.c_out,)
        self.weight = nn.Parameter(_own(source, "weight", layer.weight_shape))
        self.bias = nn.Parameter(_own(source, "bias", shape)) if layer.bias else None
        bn = None if source is None else source.bn
        self.bn = BatchNorm(layer.c_out, bn) if layer.norm else None
        self.observer: Observer | None = None  # only during `recalibrate`
        self.synchronised = False

    def forward(self, x: Tensor, layer: Conv) -> Tensor:
        c_out, c_in, kernel, _ = layer.weight_shape
        weight: Tensor = self.weight
        if weight.shape != layer.weight_shape:
            edge = (weight.shape[2] - kernel) // 2
            weight = weight[:c_out, :c_in, edge : edge + kernel, edge : edge + kernel]
        bias = None if self.bias is None else self.bias[:c_out]
        groups = layer.c_in if layer.depthwise else 1
        pads = layer.pads((int(x.shape[2]), int(x.shape[3])))  # the input may be of any size
        if pads[:2] != pads[2:]:
            x, pads = F.pad(x, (pads.left, pads.right, pads.top, pads.bottom)), _NO_PADS
        x = F.conv2d(x, weight, bias, layer.stride, pads[:2], layer.dilation, groups)
        if self.bn is not None:
            bn = self.bn
            gamma, beta = bn.weight[:c_out], bn.bias[:c_out]
            if self.observer is not None:
                mean, variance = self.observer.add(x)
                scale = gamma * (variance + layer.eps).rsqrt()
                shift = beta - mean * scale
                for part in parts(x):  # in place: a new tensor for all images would cost more
                    torch.addcmul(shift[:, None, None], part, scale[:, None, None], out=part)
                    _activated(part, layer.act, inplace=True)
                return x
            if not self.training:
                mean, variance = bn.running_mean[:c_out], bn.running_var[:c_out]
                x = F.batch_norm(x, mean, variance, gamma, beta, eps=layer.eps)
            elif self.synchronised:
                x = _synchronised_batch_norm(x, gamma, beta, layer.eps)
            elif x.numel() == x.shape[1]:
                raise DataError(
                    f"{layer.key} gives one pixel for the one image of this step, from which "
                    "BatchNorm has nothing to learn: take 2 or more images for each process "
                    "(batch_size), or a larger input"
                )
            else:
                x = F.batch_norm(x, None, None, gamma, beta, training=True, eps=layer.eps)
        return _activated(x, layer.act)


def _activated(x: Tensor, act: str | None, inplace: bool = False) -> Tensor:
    if act == "swish":
        return F.silu(x, inplace)
    if act == "hswish":
        return F.hardswish(x, inplace)
    if act == "relu6":
        return F.relu6(x, inplace)
    return F.relu(x, inplace) if act == "relu" else x


def _synchronised_batch_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """BatchNorm with the statistics over the batches of all ranks, which must have one size.

    nn.SyncBatchNorm can neither slice its tensors nor run on a CPU. The ranks exchange means and
    variances, not sums of squares, so that a large mean costs no precision.
    """
    from torch.distributed.nn.functional import all_reduce

    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    own = torch.stack([wide.mean((0, 2, 3)), wide.var((0, 2, 3), unbiased=False)])
    mine = torch.zeros(dist.get_world_size(), 1, 1, dtype=own.dtype, device=own.device)
    mine[dist.get_rank()] = 1
    means, variances = all_reduce(mine * own).unbind(1)  # type: ignore[no-untyped-call]
    mean = means.mean(0)
    scale = gamma * (variances.mean(0) + (means - mean).square().mean(0) + eps).rsqrt()
    out: Tensor = wide * scale[:, None, None] + (beta - mean * scale)[:, None, None]
    return out.to(x.dtype)


class ElasticLinear(nn.Module):
    """The classifier; a network with a narrower head uses the first input features."""

    def __init__(self, layer: Linear, source: ElasticLinear | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(_own(source, "weight", (layer.c_out, layer.c_in)))
        self.bias = nn.Parameter(_own(source, "bias", (layer.c_out,)))

    def forward(self, x: Tensor, layer: Linear) -> Tensor:
        return F.linear(x, self.weight[:, : layer.c_in], self.bias)


class Net(nn.Module):
    """The tensors of a set of layers, and the forward pass of any plan that they can serve.

    The tensors are copies cut out of those of `source`, or new ones for layers that it lacks.
    """

    def __init__(self, layers: Iterable[Layer], source: Net | None = None) -> None:
        super().__init__()
        self._layers: dict[str, ElasticConv | ElasticLinear] = {}
        for layer in layers:
            whole: Any = source._layers.get(layer.key) if source else None
            module = (
                ElasticConv(layer, whole)
                if isinstance(layer, Conv)
                else ElasticLinear(layer, whole)
            )
            self._layers[layer.key] = module
            parent: nn.Module = self
            *path, name = layer.key.split(".")
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(name, module)

    def run(self, x: Tensor, plan: Plan, drop: DropRates | None = None) -> Tensor:
        """Images [n, 3, h, w], normalised, of any size -> logits [n, classes]."""
        drop = drop or DropRates()
        (x,) = self.features(x, plan, [len(plan.blocks) - 1], drop)
        x = self._apply_layer(x, plan.head_expand)
        x = x.mean((2, 3), keepdim=True)
        if plan.head_mix:
            x = self._apply_layer(x, plan.head_mix)
        x = x.flatten(1)
        if drop.dropout:
            x = F.dropout(x, drop.dropout)
        return self._apply_layer(x, plan.classifier)

    def features(
        self, x: Tensor, plan: Plan, places: Sequence[int], drop: DropRates | None = None
    ) -> list[Tensor]:
        """Images [n, 3, h, w], normalised -> the outputs of the blocks at `places`, in order."""
        drop, found = drop or DropRates(), []
        x = self._apply_layer(x, plan.stem)
        for place, block in enumerate(plan.blocks):
            x = self._block(x, block, drop.skip_rate(place, plan))
            if place in places:
                found.append(x)
        return found

    def synchronise_batchnorm(self) -> None:
        """In training, make BatchNorm use the batches of all processes (torch.distributed)."""
        for module in self.modules():
            if isinstance(module, ElasticConv):
                module.synchronised = True

    def _apply_layer(self, x: Tensor, layer: Layer) -> Tensor:
        out: Tensor = self._layers[layer.key](x, layer)
        return out

    def _block(self, x: Tensor, block: MBConv, skip: float) -> Tensor:
        shortcut = self._shortcut(x, block.shortcut) if block.shortcut else None
        if block.expand:
            x = self._apply_layer(x, block.expand)
        x = self._apply_layer(x, block.depthwise)
        if block.se:
            x = x * self._squeeze_excite(x, block.se)
        x = self._apply_layer(x, block.project)
        if shortcut is None:
            return x
        if skip:  # the block adds nothing to some images, and more to the others to make up for it
            kept = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device) >= skip
            x = x * kept / (1 - skip)
        return x + shortcut

    def _shortcut(self, x: Tensor, shortcut: Shortcut) -> Tensor:
        if shortcut.pool:
            parity = (int(x.shape[2]) % 2, int(x.shape[3]) % 2)  # the input may be of any size
            x = F.avg_pool2d(x, 2, 2, parity)
        return self._apply_layer(x, shortcut.conv) if shortcut.conv else x

    def _squeeze_excite(self, x: Tensor, se: SqueezeExcite) -> Tensor:
        x = x.mean((2, 3), keepdim=True)
        x = self._apply_layer(self._apply_layer(x, se.reduce), se.expand)
        return F.hardsigmoid(x)


class Standalone(Net):
    """One network with its own weights."""

    plan: AnyPlan

    def recalibrate(
        self, batches: Iterable[Tensor], references: Mapping[str, Reference] | None = None
    ) -> Self:
        """Set the BatchNorm statistics to those of all images in `batches`, each [n, 3, h, w].

        Every image counts once, and how they are batched makes no difference: they are run in
        groups of this method's own. A group is normalised by its own statistics, so that each layer
        sees what the layers before it will give in evaluation. More images than `GROUP_IMAGES` make
        several groups if some layer would write more than `GROUP_ELEMENTS` numbers for all of them;
        the statistics are then pooled over the groups. Variances are those of the population.

        `references` are the max net's, of the same images in the same order (`references`); then
        each layer gets the estimate of `recalibration.Controlled`.

        DataError if there are no images. Fewer than `MIN_IMAGES` are used with a warning.
        """
        known = references or {}
        observers = {
            key: Controlled(known[key]) if key in known else Pooled() for key in self._normed()
        }
        count = self._observe(observers, batches)
        for key, norm in self._normed().items():
            found = observers[key].estimate
            norm.running_mean.copy_(found.mean)
            norm.running_var.copy_(found.variance)
        if count < MIN_IMAGES:
            logger.warning(
                "BatchNorm was recalibrated with fewer than %d images (%d), which costs accuracy: "
                "give the calibration split more",
                MIN_IMAGES, count,
            )  # fmt: skip
        return self

    def references(self, batches: Iterable[Tensor]) -> dict[str, Reference]:
        """What each BatchNorm meets in the images, by the key of its layer, and what it knows.

        It is for the max net of a supernet whose statistics came with the weights. These stay as
        they are.
        """
        eps = {layer.key: layer.eps for layer in self.plan.layers() if isinstance(layer, Conv)}
        observers = {
            key: Known(Estimate(norm.running_mean, norm.running_var), eps[key])
            for key, norm in self._normed().items()
        }
        self._observe(observers, batches)
        return {key: observer.reference for key, observer in observers.items()}

    def _normed(self) -> dict[str, BatchNorm]:
        """Every BatchNorm by the key of its layer."""
        return {
            key: module.bn
            for key, module in self._layers.items()
            if isinstance(module, ElasticConv) and module.bn is not None
        }

    @torch.no_grad()
    def _observe(self, observers: Mapping[str, Observer], batches: Iterable[Tensor]) -> int:
        """Run all images with an observer at every BatchNorm, and return how many they were."""
        convs = [(key, m) for key, m in self._layers.items() if isinstance(m, ElasticConv)]
        self.eval()
        count = 0
        try:
            for key, conv in convs:
                conv.observer = observers.get(key)
            for images in self._groups(batches):
                self(images)
                count += len(images)
        finally:
            for _, conv in convs:
                conv.observer = None
        if not count:
            raise DataError("there are no images to recalibrate BatchNorm with")
        return count

    def _groups(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """The images of all batches in order, in the groups that `recalibrate` speaks of."""
        waiting: list[Tensor] = []
        most = 0
        for batch in batches:
            if not most:
                height, width = self.plan.input_hw
                grown = batch.shape[2] * batch.shape[3] / (height * width)
                largest = max(layer.elements for layer in self.plan.layers()) * grown
                most = max(GROUP_IMAGES, int(GROUP_ELEMENTS / largest))
            waiting.append(batch)
            # what is left for the last two groups may be just more than one of them can hold
            while sum(map(len, waiting)) >= 2 * most:
                images = torch.cat(waiting)
                yield images[:most]
                waiting = [images[most:]]
        images = torch.cat(waiting) if waiting else torch.empty(0)
        if len(images):
            yield from images.tensor_split(-(-len(images) // most))

    def numpy_weights(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        """The tensors by key, float32, as `onnx_graph.build` takes them."""
        return {key: value.detach().cpu().numpy() for key, value in self.state_dict().items()}


class Subnet(Standalone):
    """A classifier cut out of the supernet."""

    def __init__(self, plan: Plan, source: Net) -> None:
        super().__init__(plan.layers(), source)
        self.plan: Plan = plan

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x, self.plan)


class Supernet(Net):
    """All networks of `space` in one set of tensors."""

    def __init__(self, space: Space, num_classes: int = 1000) -> None:
        super().__init__(_largest_layers(space, num_classes))
        # whether BatchNorm's statistics are those of the max net, and came with the weights
        self.published_statistics = False
        self.space = space
        self.num_classes = num_classes
        self.reset_parameters()
        # on a CPU depthwise convolutions train about twice as fast in this layout
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, arch: Arch, drop: DropRates | None = None) -> Tensor:
        """Images [n, 3, h, w], normalised, of any size -> logits [n, classes].

        `drop` is meant for the max net in training.
        """
        return self.run(x, self.plan(arch), drop)

    def plan(self, arch: Arch, input_hw: tuple[int, int] | None = None) -> Plan:
        return plan(self.space, arch, num_classes=self.num_classes, input_hw=input_hw)

    @torch.no_grad()
    def extract(self, arch: Arch) -> Subnet:
        """A standalone copy of `arch`; its BatchNorm statistics are void until `recalibrate`.

        Only with `published_statistics` do those of the max net mean something, at any resolution.
        """
        return Subnet(self.plan(self.space.check(arch)), self).eval()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """He initialisation; the last BatchNorm gamma of a block starts at 0 (BigNAS).

        Such a block starts as its shortcut. So a block that lacks one in some arch starts with a
        gamma of 1: otherwise it would give 0 for every image, and nothing before it would learn.
        """
        for layer in _largest_layers(self.space, self.num_classes):
            module = self._layers[layer.key]
            if isinstance(layer, Conv) and isinstance(module, ElasticConv):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if layer.act and not layer.norm:
                    _pair(module.weight)
                if module.bn is not None:
                    module.bn.reset(0.0 if _ends_residual(self.space, layer) else 1.0)
            else:
                nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _pair(weight: Tensor) -> None:
    """Make every second output channel the negative of the one before it, in place.

    Squeeze-and-excite and the head run on one pooled pixel, which a new network makes almost the
    same for all images, and without BatchNorm. A ReLU after independent weights is then on or off
    for all images at once. With 8 channels, one layer in 256 would be off as a whole and learn
    nothing. Of each pair, one channel is always on.
    """
    weight[1::2] = -weight[::2]


def _inputs(space: Space, stage: int, block: int) -> set[int]:
    """How many channels the input of a block can have."""
    if block > 0:
        return _outputs(space, stage)
    return _outputs(space, stage - 1) if stage else {widened(space, w) for w in space.stem.widths}


def _outputs(space: Space, stage: int) -> set[int]:
    """How many channels the blocks of a stage can give."""
    return {widened(space, width) for width in space.stages[stage].widths}


def _changes_width(space: Space, stage: int) -> bool:
    """Whether in some arch the first block of a stage gives more or fewer channels than it gets."""
    return len(_inputs(space, stage, 0) | _outputs(space, stage)) > 1


def _ends_residual(space: Space, layer: Conv) -> bool:
    """Whether `layer` ends a block that has a shortcut in every arch that has the block."""
    if not layer.key.endswith(".project"):
        return False
    stage, block = map(int, layer.key.split(".")[1:3])
    if space.shortcut == "projected" or block > 0:
        return True
    return space.stages[stage].stride == 1 and not _changes_width(space, stage)


def _largest_layers(space: Space, num_classes: int) -> Iterable[Layer]:
    """The layers of the max net, and the 1x1 convolutions that only other networks need."""
    largest = plan(space, space.max(), num_classes=num_classes)
    layers = {layer.key: layer for layer in largest.layers()}
    for block in largest.blocks:
        key, rule = f"stages.{block.stage}.{block.index}", space.stages[block.stage]
        c_in, mid = (block.expand or block.depthwise).c_in, block.depthwise.c_in
        inputs = _inputs(space, block.stage, block.index)
        if any(expanded(space, rule, c, e) != c for c in inputs for e in rule.expands):
            layer = Conv(
                f"{key}.expand", c_in, mid, 1, 1, block.depthwise.in_hw, act=rule.act,
                eps=space.bn_eps,
            )  # fmt: skip
            layers.setdefault(layer.key, layer)
        projected = space.shortcut == "projected" and block.index == 0
        if projected and _changes_width(space, block.stage):
            layer = Conv(f"{key}.shortcut", c_in, block.project.c_out, 1, 1, (1, 1), norm=False)
            layers.setdefault(layer.key, layer)
    return layers.values()
