"""The three inference paths: how VAE, LVAE(+) and BIVA draw latents from q(z | x) (paper.md section 1).

Each path works in two halves. `encode(x)` computes what depends on x alone, once per image. `posterior(features, k,
noise)` draws k samples per image and gives the latent source that the generative ladder walks; rows are ordered
(k, B) flattened, sample-major.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from biva.models.architectures import Architecture, Shape
from biva.models.generative import Latent, LatentSource, Priors
from biva.models.latents import (
    DiagonalGaussian,
    GaussianHead,
    LatentProjection,
    Noise,
    latent_name,
    repeat,
    with_class,
)
from biva.models.layers import BlockStack, GatedBlock, dense


class InferencePath(nn.Module):
    """The two halves of an inference path, which `HierarchicalVAE` calls."""

    groups: tuple[str, ...]
    """Latent groups of every stage below the top, in the order in which the ladder concatenates them."""

    def encode(self, x: Tensor) -> Any:
        """Everything that depends on x (B, C, H, W) alone."""
        raise NotImplementedError

    def posterior(self, features: Any, k: int, noise: Noise) -> LatentSource:
        """The latent source of k posterior samples per image: k*B rows."""
        raise NotImplementedError


def drawn(q: DiagonalGaussian, noise: Noise, index: int, group: str = "") -> Latent:
    """One draw per row from the posterior of a latent group."""
    return Latent(q.sample(noise, f"q({latent_name(index, group)})"), q)


def inference_blocks(architecture: Architecture, index: int, shape: Shape, auxiliary: Shape | None) -> BlockStack:
    """Blocks of one deterministic inference path in stage i; every block receives the same auxiliary input.

    The last block strides. The block next to the data has no residual.
    """
    stage, blocks = architecture.stages[index], BlockStack()
    for j in range(stage.blocks):
        block = GatedBlock(
            architecture,
            shape,
            stage.kernel,
            dropout=architecture.dropout.inference,
            stride=stage.stride if j == stage.blocks - 1 else 1,
            auxiliary=auxiliary,
            shortcut=not index == j == 0,
        )
        blocks.append(block)
        shape = block.output_shape
    return blocks


def _doubled(shape: Shape) -> Shape:
    """Shape of two maps concatenated along their channels."""
    channels, height, width = shape
    return 2 * channels, height, width


def run_blocks(blocks: BlockStack, x: Tensor, auxiliary: Tensor | None) -> Tensor:
    """Output of the last block, every block given the same auxiliary input."""
    activated = None if auxiliary is None else F.elu(auxiliary)
    outputs: list[Tensor] = blocks(x, [activated] * len(blocks))
    return outputs[-1]


def _merge(architecture: Architecture, index: int, shape: Shape, auxiliary: Shape | None) -> GatedBlock:
    """The gated block in front of q(z_i^TD | .); its kernel is that of the stage above, whose d_i it receives.

    In the authors' PyTorch code the kernel is always 3.
    """
    above = architecture.stages[min(index + 1, len(architecture.stages) - 1)]
    dropout = architecture.dropout
    return GatedBlock(
        architecture,
        shape,
        3 if architecture.reference_code == "pytorch" else above.kernel,
        dropout=dropout.inference if auxiliary is None else dropout.generative,
        auxiliary=auxiliary,
    )


class DeterministicPaths(nn.Module):
    """Stage i of the two deterministic paths: bu_i, and td_i which sees samples only through bu_i."""

    def __init__(self, architecture: Architecture, index: int, bu_shape: Shape, td_shape: Shape) -> None:
        super().__init__()
        skip = _doubled(architecture.stage_shapes[index - 1]) if index else None
        self.bu = inference_blocks(architecture, index, bu_shape, skip)
        self.td = inference_blocks(architecture, index, td_shape, architecture.stage_shapes[index])

    def forward(self, bu_in: Tensor, td_in: Tensor, skip: Tensor | None) -> tuple[Tensor, Tensor]:
        """bu_i and td_i, given the inputs of both paths and, above stage 1, the skip [bu_(i-1), td_(i-1)]."""
        bu = run_blocks(self.bu, bu_in, skip)
        return bu, run_blocks(self.td, td_in, bu)


@dataclass(frozen=True)
class BottomUpFeatures:
    """What depends on x alone: bu_1 and q(z_1 | x)."""

    bu: Tensor
    posterior: DiagonalGaussian


class BottomUpInference(InferencePath):
    """VAE: q(z | x) = prod_i q(z_i | z_<i, x), drawn bottom-up, as in the authors' PyTorch code.

    The input of stage i+1 is the sample z_i projected back to a map; its blocks receive bu_i as auxiliary input. As in
    that code every stage owns a projection, the top one too, although nothing reads it there: without its 31,360
    parameters the 28x28 model would not have the published 17,804,706.
    """

    groups = ("",)

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shape, skip = architecture.input_shape, None
        self.blocks, self.heads, self.projections = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index in range(len(architecture.stages)):
            self.blocks.append(inference_blocks(architecture, index, shape, skip))
            self.heads.append(GaussianHead(architecture, index))
            projection = LatentProjection(architecture, index, groups=1)
            self.projections.append(projection)
            shape, skip = projection.output_shape, architecture.stage_shapes[index]
        self.projections[-1].requires_grad_(False)  # processes that share a model wait for every gradient

    def encode(self, x: Tensor) -> BottomUpFeatures:
        """The first stage, up to q(z_1 | x)."""
        bu = run_blocks(self.blocks[0], x, None)  # type: ignore[arg-type]
        return BottomUpFeatures(bu, self.heads[0](bu))

    def posterior(self, features: BottomUpFeatures, k: int, noise: Noise) -> LatentSource:
        """Draws the whole hierarchy bottom-up, before the walk, which then reads the latents."""
        bu, q = repeat(features.bu, k), features.posterior.repeat(k)
        latents = [drawn(q, noise, 0)]
        for blocks, head, projection in zip(self.blocks[1:], self.heads[1:], self.projections, strict=False):
            bu = run_blocks(blocks, projection(latents[-1].value), bu)  # type: ignore[arg-type]
            latents.append(drawn(head(bu), noise, len(latents)))
        return lambda index, _priors, _d: {"": latents[index]}


@dataclass(frozen=True)
class TopDownFeatures:
    """What depends on x alone: td_i of every stage, and q(z_L | x)."""

    td: list[Tensor]
    top: DiagonalGaussian


class TopDownInference(InferencePath):
    """LVAE and LVAE+: q(z | x) = q(z_L | x) prod_i q(z_i | x, z_>i), drawn top-down during the walk.

    It is BIVA's inference without the bottom-up latents, both deterministic paths kept, so all of it but the merges
    depends on x alone. With the 32x32 architecture this has 72,393,184 (LVAE) and 73,378,144 (LVAE+) parameters
    against the paper's 72.36M and 73.35M. The skip connections account for the same 0.98M in both, so what differs,
    0.03M, lies in the inference path, whose exact layout for the baselines was never published.
    """

    groups = ("",)

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        shapes = architecture.stage_shapes
        self.paths, self.merges, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for index, shape in enumerate(shapes):
            below = architecture.input_shape if index == 0 else shapes[index - 1]
            self.paths.append(DeterministicPaths(architecture, index, below, below))
            top = index == len(shapes) - 1
            self.merges.append(_merge(architecture, index, shape, None if top else shape))
            self.heads.append(GaussianHead(architecture, index))

    def encode(self, x: Tensor) -> TopDownFeatures:
        """Both deterministic paths, and the top posterior."""
        bu, td, skip, tds = x, x, None, []
        for path in self.paths:
            bu, td = path(bu, td, skip)
            skip = torch.cat([bu, td], dim=1)
            tds.append(td)
        return TopDownFeatures(tds, self.heads[-1](self.merges[-1](td)))

    def posterior(self, features: TopDownFeatures, k: int, noise: Noise) -> LatentSource:
        """Draws during the walk, from td_i merged with the generative state d_i."""
        top = features.top.repeat(k)

        def source(index: int, _priors: Priors, d: Tensor | None) -> Mapping[str, Latent]:
            q = top if d is None else self.heads[index](self.merges[index](repeat(features.td[index], k), F.elu(d)))
            return {"": drawn(q, noise, index)}

        return source


@dataclass(frozen=True)
class BidirectionalFeatures:
    """What depends on x alone: bu_1, td_1 and q(z_1^BU | x), which a hierarchy of one stage does not have."""

    bu: Tensor
    td: Tensor
    bu_posterior: DiagonalGaussian | None


@dataclass(frozen=True)
class Ascent:
    """What the way up gives at one sample of the bottom-up latents per row, for the way down."""

    bu: list[Latent]
    """z_i^BU of every stage below the top."""
    td: list[Tensor]
    """td_i of every stage."""
    top: Tensor
    """[td_L, bu_L], or in the order of the authors' PyTorch code [bu_L, td_L]: (B, 2F, H_L, W_L)."""

    def rows(self, index: Tensor) -> Ascent:
        """The rows with these indices; one may be taken several times."""
        return Ascent([z.rows(index) for z in self.bu], [td[index] for td in self.td], self.top[index])


class BidirectionalInference(InferencePath):
    """BIVA: `q(z_L | x, z_<L^BU) prod_i q(z_i^BU | x, z_<i^BU) q(z_i^TD | x, z_<i^BU, z_>i)`.

    The bottom-up latents are drawn on the way up, the top-down ones during the walk. Only stage 1, which holds the
    full-resolution convolutions, depends on x alone. A hierarchy of one stage has no bottom-up latents.

    With `classes` there is a categorical variable y at the top, and z_L comes from q(z_L | x, y, z_<L^BU) (paper.md
    section 5): y, one-hot, stands beside [td_L, bu_L] in the top merge, so that it acts before a nonlinearity.
    """

    groups = ("td", "bu")

    def __init__(self, architecture: Architecture, classes: int = 0) -> None:
        super().__init__()
        self.bu_first = architecture.reference_code == "pytorch"
        shapes = architecture.stage_shapes
        self.paths, self.merges, self.td_heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.bu_heads, self.projections = nn.ModuleList(), nn.ModuleList()
        bu_shape = td_shape = architecture.input_shape
        for index, shape in enumerate(shapes):
            self.paths.append(DeterministicPaths(architecture, index, bu_shape, td_shape))
            self.td_heads.append(GaussianHead(architecture, index))
            if index == len(shapes) - 1:
                channels, height, width = _doubled(shape)
                self.merges.append(_merge(architecture, index, (channels + classes, height, width), None))
                break
            self.merges.append(_merge(architecture, index, shape, shape))
            self.bu_heads.append(GaussianHead(architecture, index))
            projection = LatentProjection(architecture, index, groups=1)
            self.projections.append(projection)
            bu_shape, td_shape = projection.output_shape, shape

    def encode(self, x: Tensor) -> BidirectionalFeatures:
        """Stage 1 of both paths, up to the first distribution."""
        bu, td = self.paths[0](x, x, None)
        return BidirectionalFeatures(bu, td, self.bu_heads[0](bu) if len(self.bu_heads) else None)

    def posterior(self, features: BidirectionalFeatures, k: int, noise: Noise) -> LatentSource:
        """Draws the bottom-up latents of all stages and the top one; the rest follows during the walk."""
        return self.descend(self.ascend(features, k, noise), noise)

    def ascend(self, features: BidirectionalFeatures, k: int, noise: Noise) -> Ascent:
        """Goes up with k samples of the bottom-up latents per image."""
        bu, td, known = repeat(features.bu, k), repeat(features.td, k), features.bu_posterior
        latents: list[Latent] = []
        tds = [td]
        for head, projection, path in zip(self.bu_heads, self.projections, self.paths[1:], strict=True):
            q = head(bu) if latents or known is None else known.repeat(k)
            latents.append(drawn(q, noise, len(latents), "bu"))
            bu, td = path(projection(latents[-1].value), td, torch.cat([bu, td], dim=1))
            tds.append(td)
        return Ascent(latents, tds, torch.cat([bu, td] if self.bu_first else [td, bu], dim=1))

    def descend(self, ascent: Ascent, noise: Noise, y: Tensor | None = None) -> LatentSource:
        """The latent source of the walk down; `y` (rows, classes), one-hot, where the top depends on a class."""
        top = self.td_heads[-1](self.merges[-1](with_class(ascent.top, y)))

        def source(index: int, _priors: Priors, d: Tensor | None) -> Mapping[str, Latent]:
            if d is None:
                return {"": drawn(top, noise, index)}
            q = self.td_heads[index](self.merges[index](ascent.td[index], F.elu(d)))
            return {"td": drawn(q, noise, index, "td"), "bu": ascent.bu[index]}

        return source


class ClassHead(nn.Module):
    """q(y | x, z_<L^BU) from [td_L, bu_L]: a gated block, as before z_L, and a dense layer (paper.md section 5)."""

    def __init__(self, architecture: Architecture, classes: int) -> None:
        super().__init__()
        shape = architecture.stage_shapes[-1]
        self.merge = _merge(architecture, len(architecture.stages) - 1, _doubled(shape), None)
        self.layer = dense(math.prod(shape), classes)

    def forward(self, top: Tensor) -> Tensor:
        """(B, 2F, H_L, W_L) -> log q(y | .), (B, classes)."""
        return F.log_softmax(self.layer(F.elu(self.merge(top)).flatten(1)), dim=1)
