"""Part 2: a reference and its masks → the task, a small value per class (paper, section 3.2, Eq. 2-4).

Masks are (b, K, x, y, z) at full resolution, in [0, 1]. Nothing here is ever as large as a feature volume at full
resolution: the two identities of paper.md move the mask down instead of the features up.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from torch import Tensor, nn

from iris_core.model.blocks import MLP, Attention, coordinates, exact, fourier, inside

EPSILON = 1e-6
COMPACT = ("tokens", "prototypes", "location")  # the parts of a task without spatial memory


@dataclass(frozen=True)
class Task:
    """T: what the model knows of K classes. b references or 1, K classes; a missing part has size 0.

    tokens: (b, K, m + 1, C), T_f and T_c. prototypes: (b, K, levels, 2, P), foreground and background, unit length.
    location: (b, K, 10), 1, centre and raw second moments in the field of view.
    memory_keys: (b, N, M) reference positions; memory_masks: (b, K, N), how much of each is the class.
    balance: (b, K, 3), what the gate's weights of registration and of the head are multiplied by, and a logit added to
    their answer: 1, 1, 0 unless it was tuned.
    """

    tokens: Tensor
    prototypes: Tensor
    location: Tensor
    memory_keys: Tensor
    memory_masks: Tensor
    balance: Tensor

    @classmethod
    def compact(cls, tokens: Tensor, prototypes: Tensor, location: Tensor) -> "Task":
        """A task that is a few vectors per class, without spatial memory."""
        b, k = tokens.shape[:2]
        empty = tokens.new_zeros
        return cls(tokens, prototypes, location, empty(b, 0, 0), empty(b, k, 0), plain_balance(tokens))

    def map(self, function) -> "Task":
        """The same task with ``function`` applied to every tensor."""
        return Task(*(function(getattr(self, f.name)) for f in fields(self)))

    def rounded(self) -> "Task":
        """In steps of float16, as a task file keeps it: what was kept answers to the bit as before."""
        return self.map(lambda tensor: tensor.half().float())

    def without_memory(self) -> "Task":
        return replace(self, memory_keys=self.memory_keys[:, :0], memory_masks=self.memory_masks[:, :, :0])

    def bare(self) -> "Task":
        """A few vectors per class."""
        return replace(Task.compact(self.tokens, self.prototypes, self.location), balance=self.balance)

    def strange(self, amount: float, seed: int) -> "Task":
        """With noise for a share of each vector: what T is worth for a class that no training showed."""
        source = torch.Generator(self.tokens.device).manual_seed(seed)

        def mixed(vectors: Tensor) -> Tensor:
            noise = torch.randn(vectors.shape, generator=source, device=vectors.device)
            return (1 - amount) * vectors + amount * noise * vectors.detach().std(-1, keepdim=True)

        return replace(self, tokens=mixed(self.tokens), prototypes=F.normalize(mixed(self.prototypes), dim=-1))

    def without_location(self) -> "Task":
        return replace(self, location=torch.zeros_like(self.location))


def plain_balance(tokens: Tensor) -> Tensor:
    return tokens.new_tensor([1.0, 1.0, 0.0]).expand(*tokens.shape[:2], 3)


def upsample_matrix(n_low: int, n_high: int, like: Tensor) -> Tensor:
    """Trilinear upsampling along one axis as a matrix (n_high, n_low), align_corners=False."""
    eye = torch.eye(n_low, dtype=like.dtype, device=like.device)
    return F.interpolate(eye[None], size=n_high, mode="linear")[0].T


@exact
def pull_down(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Upᵀ: the transpose of trilinear upsampling from ``shape``, applied to (b, k, X, Y, Z)."""
    for axis, n in zip((-3, -2, -1), shape, strict=True):
        matrix = upsample_matrix(n, volume.shape[axis], volume)
        volume = torch.tensordot(volume, matrix, dims=([axis], [0])).movedim(-1, axis)
    return volume


def as_coarse(masks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Masks (b, K, x, y, z) as a coarser grid sees them: the nearest voxel of each of its cells, in blocks.

    What Eq. 2-4 avoid by working at full resolution: a structure that lies between the cells is lost.
    """
    return F.interpolate(F.interpolate(masks, size=shape, mode="nearest-exact"), size=masks.shape[2:], mode="nearest")


@exact
def masked_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Eq. 2: Pool(Upsample(F) ⊙ y), by ⟨F, Upᵀ(y)⟩ / Σy. features (b, C, d, h, w), weights = Upᵀ(y) (b, K, d, h, w)."""
    total = weights.sum((2, 3, 4)).clamp_min(EPSILON)
    return einsum(features.float(), weights.float(), "b c x y z, b k x y z -> b k c") / total[..., None]


class ContextStream(nn.Module):
    """Eq. 3-4: T_c, m query tokens that read features and mask together at full resolution.

    PixelShuffle → concatenate y → 1×1×1 convolution → PixelUnshuffle is, at low resolution, the same small matrix
    on each of the r³ groups of channels, plus unshuffle(y) times one vector: only the latter differs between classes.
    """

    def __init__(self, channels: int, stride: int, tokens: int, heads: int) -> None:
        super().__init__()
        if channels % stride**3:
            raise ValueError(f"Eq. 3 needs channels divisible by stride³ = {stride**3}, got {channels}")
        self.stride = stride
        self.mix = nn.Conv3d(channels // stride**3 + 1, channels // stride**3, 1)
        self.queries = nn.Parameter(torch.randn(tokens, channels) * 0.02)
        self.read = Attention(channels, channels, heads)
        self.exchange = Attention(channels, channels, heads)
        self.think = MLP(channels)

    def mixed(self, features: Tensor, mask: Tensor) -> Tensor:
        """unshuffle(conv([shuffle(F), y])) for one class: (b, C, d, h, w), y (b, X, Y, Z)."""
        r = self.stride
        weight = self.mix.weight[:, :, 0, 0, 0]
        groups = rearrange(features, "b (c i) x y z -> b c i x y z", i=r**3)
        low = rearrange(mask, "b (x i) (y j) (z k) -> b (i j k) x y z", i=r, j=r, k=r).to(features.dtype)
        mixed = einsum(groups, weight[:, :-1].to(features.dtype), "b c i x y z, o c -> b o i x y z")
        mixed = mixed + weight[:, -1].to(features.dtype)[:, None, None, None, None] * low[:, None]
        mixed = mixed + self.mix.bias.to(features.dtype)[:, None, None, None, None]
        return rearrange(mixed, "b o i x y z -> b (o i) x y z")

    def forward(self, features: Tensor, masks: Tensor) -> Tensor:
        per_class = []
        for mask in masks.unbind(1):  # one class at a time: the volume is per class, the result is not
            source = rearrange(self.mixed(features, mask), "b c x y z -> b (x y z) c")
            tokens = self.read(repeat(self.queries, "m c -> b m c", b=features.shape[0]), source)
            per_class.append(self.think(self.exchange(tokens, tokens)))
        return torch.stack(per_class, 1)


class TaskEncoder(nn.Module):
    """Features of the reference and its masks → Task. Classes never see each other here."""

    def __init__(
        self,
        channels: int,
        stride: int,
        query_tokens: int,
        heads: int,
        prototype_channels: tuple[int, ...],
        prototype_width: int,
        location_prior: bool,
        memory_channels: int,
        memory_width: int,
        high_resolution: bool = True,
        foreground: bool = True,
    ) -> None:
        super().__init__()
        self.context = ContextStream(channels, stride, query_tokens, heads)
        self.projections = nn.ModuleList(nn.Conv3d(c, prototype_width, 1) for c in prototype_channels)
        self.prototype_width = prototype_width
        self.location_prior = location_prior
        self.memory_width = memory_width
        self.high_resolution = high_resolution
        self.foreground = foreground
        if memory_width:
            self.memory_projection = nn.Conv3d(memory_channels, memory_width, 1)
            self.memory_position = nn.Linear(24, memory_width)

    def forward(
        self,
        features: Tensor,
        matching: list[Tensor],
        memory: Tensor | None,
        masks: Tensor,
        box: Tensor,
    ) -> Task:
        """features: the level that feeds T. matching: the levels for prototypes. memory: the level for the memory.
        masks (b, K, X, Y, Z); box (b, 2, 3): the window in the reference's
        field of view."""
        masks = masks.float() if self.high_resolution else as_coarse(masks.float(), features.shape[2:])
        down = pull_down(masks, features.shape[2:])
        foreground = masked_mean(features, down)[:, :, None]  # T_f
        if not self.foreground:
            foreground = torch.zeros_like(foreground)
        tokens = torch.cat([foreground, self.context(features, masks).float()], 2)
        b, k = masks.shape[:2]
        empty = masks.new_zeros
        task = Task.compact(
            tokens=tokens,
            prototypes=self.prototypes(matching, masks, box) if matching else empty(b, k, 0, 2, self.prototype_width),
            location=moments(down, box) if self.location_prior else empty(b, k, 0),
        )
        if self.memory_width:
            keys, filled = self.memory_keys(memory, box), self.memory_masks(masks, memory, box)
            task = replace(task, memory_keys=keys, memory_masks=filled)
        return task

    def prototypes(self, matching: list[Tensor], masks: Tensor, box: Tensor) -> Tensor:
        """Mean feature of a class and of everything else in the field of view, by Eq. 2 at each level."""
        levels = []
        background = (1 - masks) * inside(box, masks.shape[2:])
        for projection, level in zip(self.projections, matching, strict=True):
            features = projection(level)
            both = [masked_mean(features, pull_down(w, level.shape[2:])) for w in (masks, background)]
            levels.append(F.normalize(torch.stack(both, 2), dim=-1))
        return torch.stack(levels, 2)

    def memory_keys(self, memory: Tensor, box: Tensor) -> Tensor:
        """Unit vectors that say what and where a coarse position is: (b, N, M); of references and queries alike."""
        what = rearrange(self.memory_projection(memory), "b c x y z -> b (x y z) c")
        where = rearrange(coordinates(box, memory.shape[2:]), "b c x y z -> b (x y z) c")
        return F.normalize((what + self.memory_position(fourier(where))).float(), dim=-1)

    def memory_masks(self, masks: Tensor, memory: Tensor, box: Tensor) -> Tensor:
        """How much of each coarse position a class fills; -1 outside of the field of view."""
        share = F.adaptive_avg_pool3d(masks, memory.shape[2:])
        valid = inside(box, memory.shape[2:])
        return rearrange(share * valid - (1 - valid), "b k x y z -> b k (x y z)")


@exact
def moments(weights: Tensor, box: Tensor) -> Tensor:
    """1, mean and raw second moments of the mask's coordinates: (b, K, 10). Raw moments average linearly."""
    x = coordinates(box, weights.shape[2:])
    first = masked_mean(x, weights)
    second = masked_mean(rearrange(x[:, :, None] * x[:, None], "b i j x y z -> b (i j) x y z"), weights)
    return torch.cat([torch.ones_like(first[..., :1]), first, second[..., [0, 1, 2, 4, 5, 8]]], -1)
