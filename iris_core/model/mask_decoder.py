"""Part 3: query features and T → all K masks in one pass (paper, section 3.3)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from iris_core.model.blocks import MLP, Attention, coordinates, exact, fourier
from iris_core.model.task_encoder import Task
from iris_core.registration import Carried


class TwoWayAttention(nn.Module):
    """F', T' = CrossAttn(F, T) in both directions. Tokens of all classes exchange; no class has a fixed place."""

    def __init__(self, width: int, token_width: int, tokens: int, layers: int, heads: int) -> None:
        super().__init__()
        self.token_in = nn.Linear(token_width, width)
        self.token_kind = nn.Parameter(torch.randn(tokens, width) * 0.02)  # which of the m + 1, not which class
        self.position = nn.Linear(24, width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Attention(width, width, heads),
                    Attention(width, width, heads),
                    MLP(width),
                    Attention(width, width, heads),
                ]
            )
            for _ in range(layers)
        )

    def forward(self, bottleneck: Tensor, tokens: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """bottleneck (b, C, d, h, w), tokens (b, K, m + 1, T) → the same shapes, tokens at width C."""
        _, _, x, y, z = bottleneck.shape
        k = tokens.shape[1]
        place = self.position(fourier(rearrange(coordinates(box, (x, y, z)), "b c x y z -> b (x y z) c")))
        f = rearrange(bottleneck, "b c x y z -> b (x y z) c") + place
        t = rearrange(self.token_in(tokens) + self.token_kind, "b k m c -> b (k m) c")
        for exchange, read, think, write in self.layers:
            t = exchange(t, t)
            t = think(read(t, f))
            f = write(f, t)
        f = rearrange(f - place, "b (x y z) c -> b c x y z", x=x, y=y, z=z)
        return f, rearrange(t, "b (k m) c -> b k m c", k=k)


class ClassHead(nn.Module):
    """Evidence maps of one class and shared features → a logit a voxel: one narrow residual block, the same for all."""

    def __init__(self, maps: int, features: int, voxels: int, width: int = 16) -> None:
        """voxels: how many a sample holds."""
        super().__init__()
        self.from_features = nn.Conv3d(features, width, 3, 1, 1)  # computed once for all classes
        self.from_maps = nn.Conv3d(maps, width, 3, 1, 1, bias=False)
        self.conv1 = nn.Conv3d(width, width, 3, 1, 1)
        self.conv2 = nn.Conv3d(width, width, 3, 1, 1)
        self.out = nn.Conv3d(width, voxels, 1)

    def forward(self, maps: Tensor, features: Tensor) -> Tensor:
        """maps (b, K, n, x, y, z), features (b, C, x, y, z) → (b, K, voxels, x, y, z)."""
        b, k = maps.shape[:2]
        per_class = rearrange(maps, "b k n x y z -> (b k) n x y z").contiguous(memory_format=torch.channels_last_3d)
        shared = self.from_features(features)
        x = self.from_maps(per_class) + (shared.repeat_interleave(k, 0) if b > 1 else shared)
        x = F.leaky_relu(x, 0.01)
        x = x + self.conv2(F.leaky_relu(self.conv1(x), 0.01))
        return self.out(F.leaky_relu(x, 0.01)).contiguous().unflatten(0, (b, k))


@dataclass(frozen=True)
class Seen:
    """What sets a query and T side by side, for each of K classes; the class head reads all of it.

    maps: each (b, K, n, x, y, z), one value a sample. match (b, K, x, y, z): the mask that the spatial memory
    propagates, or None. masks (b, K, voxels, x, y, z) and certainty (b, K or 1, x, y, z): what registration carried
    over, for each voxel of a sample, or None.
    """

    maps: list[Tensor]
    match: Tensor | None
    masks: Tensor | None
    certainty: Tensor | None

    def channels(self, first: Tensor) -> Tensor:
        """All of it behind ``first`` (b, K, x, y, z), in the precision of convolutions: (b, K, n, x, y, z)."""
        parts = [first[:, :, None], *self.maps]
        if self.masks is not None:
            certainty = self.certainty.expand(-1, self.masks.shape[1], -1, -1, -1)
            parts += [self.masks.mean(2, keepdim=True), certainty[:, :, None], self.masks]
        kind = first.device.type
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        return torch.cat([part.to(low) for part in parts], 2)


class Evidence(nn.Module):
    """Maps that compare a query with T directly: prototypes, location prior, spatial memory, registration."""

    def __init__(
        self, prototype_levels: int, location_prior: bool, memory: bool, registration: bool, stride: int
    ) -> None:
        """stride: of the maps; a sample covers so many voxels along each axis."""
        super().__init__()
        self.stride, self.voxels = stride, stride**3
        registered = (2 + self.voxels) * int(registration)
        self.n_maps = 2 * prototype_levels + int(location_prior) + 2 * int(memory) + registered
        self.trust = nn.Parameter(torch.tensor(8.0)) if registration else None
        self.prototype_scale = nn.Parameter(torch.full((prototype_levels,), 4.0))
        self.location_slack = nn.Parameter(torch.tensor(-3.0)) if location_prior else None
        self.sharpness = nn.Parameter(torch.tensor([10.0, 30.0])) if memory else None

    def forward(
        self,
        task: Task,
        matching: list[Tensor],
        keys: Tensor | None,
        carried: Carried | None,
        coarse: tuple,
        shape: tuple,
        box: Tensor,
    ) -> Seen:
        """matching: projected query features; keys: of the query, on the ``coarse`` grid; shape: of the maps.
        carried: one mask value a voxel, one certainty a sample; None where there is nothing to register."""
        maps = [self.similarity(task, level, i, shape) for i, level in enumerate(matching)]
        match = masks = certainty = None
        if self.location_slack is not None:
            maps.append(self.location(task, shape, box)[:, :, None])
        if self.sharpness is not None:
            maps.append(self.propagate(task, keys, coarse, shape))
            match = maps[-1][:, :, 1]
        if self.trust is not None and carried is None:
            b, k = len(box), task.tokens.shape[1]
            masks, certainty = box.new_zeros(b, k, self.voxels, *shape), box.new_zeros(b, 1, *shape)
        elif self.trust is not None:
            masks, certainty = by_sample(carried.masks, self.stride), carried.certainty
        return Seen(maps, match, masks, certainty)

    def belief(self, masks: Tensor, certainty: Tensor) -> Tensor:
        """What registration alone would answer, as logits (b, K, …), where it carried masks with some certainty."""
        return self.trust * certainty * (2 * masks - 1)

    def similarity(self, task: Task, level: Tensor, i: int, shape: tuple) -> Tensor:
        unit = F.normalize(level.float(), dim=1)
        cosine = einsum(task.prototypes[:, :, i], unit, "b k two c, b c x y z -> b k two x y z")
        cosine = cosine * self.prototype_scale[i]
        flat = rearrange(cosine, "b k two x y z -> b (k two) x y z")
        return rearrange(resize(flat, shape), "b (k two) x y z -> b k two x y z", two=2)

    @exact
    def location(self, task: Task, shape: tuple, box: Tensor) -> Tensor:
        """Gaussian log-density of the class's place in the field of view, clipped to [-1, 1]; 0 where T has none."""
        one, mean, second = task.location[..., :1], task.location[..., 1:4], task.location[..., 4:]
        second = second[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))
        eye = torch.eye(3, device=mean.device)
        covariance = second - mean[..., :, None] * mean[..., None, :] + F.softplus(self.location_slack) * eye
        x = rearrange(coordinates(box, shape), "b c x y z -> b 1 c (x y z)") - mean[..., None]
        distance = einsum(x, torch.linalg.inv(covariance), x, "b k i n, b k i j, b k j n -> b k n")
        density = (4 - distance / 2).clamp(-4, 4) / 4
        return rearrange(density * one, "b k (x y z) -> b k x y z", x=shape[0], y=shape[1])

    def propagate(self, task: Task, keys: Tensor, coarse: tuple, shape: tuple) -> Tensor:
        """Label propagation in feature space: soft and sharp attention of query positions to reference positions."""
        b, k = task.memory_masks.shape[:2]
        if task.memory_keys.shape[1] == 0:
            return keys.new_zeros(b, k, 2, *shape)
        similarity = einsum(keys, task.memory_keys, "b q c, b n c -> b q n")
        similarity = similarity.masked_fill((task.memory_masks < 0).all(1, keepdim=True), -4.0)
        masks, known = task.memory_masks.clamp_min(0), _known(task)
        read = []
        for sharpness in self.sharpness:
            attention = (similarity * sharpness).softmax(-1)
            flat = einsum(attention, masks, "b q n, b k n -> b k q")
            if known is not None:  # a reference says nothing of a class that it lacks
                flat = flat / einsum(attention, known, "b q n, b k n -> b k q").clamp_min(1e-3)
            read.append(flat)
        flat = torch.cat(read, 1)
        flat = flat.unflatten(2, coarse)
        return rearrange(resize(flat, shape), "b (two k) x y z -> b k two x y z", two=2)


def _known(task: Task) -> Tensor | None:
    """(b, K, N): 1 where a position's reference has the class; None if every reference has them all."""
    known = (task.memory_masks >= 0).float()
    return None if torch.equal(known.amin(1), known.amax(1)) else known


def sureness(logits: Tensor) -> Tensor:
    """(…, x, y, z) → (…): mean probability inside what was found, 0 where nothing was."""
    found = logits > 0
    return (logits.sigmoid() * found).sum((-3, -2, -1)) / found.sum((-3, -2, -1)).clamp_min(1)


class Gate(nn.Module):
    """How much registration's belief and what the head makes of it count, class by class.

    Told by how sure both are of what they find in the window, how well they and the spatial memory agree, and how large
    it is: what a class is plays no part, so it goes for classes that no training showed. At first registration counts
    about once and the head, which knows nothing yet, a quarter; once training is over the gate is fitted
    (``training.gate``).
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, width), nn.GELU(), nn.Linear(width, 2))
        nn.init.zeros_(self.layers[-1].weight)
        self.layers[-1].bias = nn.Parameter(torch.tensor([0.0, -2.0]))

    def forward(self, belief: Tensor, learnt: Tensor, match: Tensor) -> Tensor:
        """Logits of both and the mask that the memory propagates, (b, K, x, y, z) → (b, K, 2), between 0 and 2."""
        return self.weigh(self.look(belief, learnt, match))

    @exact
    def weigh(self, looked: Tensor) -> Tensor:
        """What ``look`` saw (…, 8) → (…, 2)."""
        return 2 * self.layers(looked).sigmoid()

    @staticmethod
    @exact
    def look(belief: Tensor, learnt: Tensor, match: Tensor) -> Tensor:
        """As of ``forward`` → (b, K, 8)."""
        belief, learnt, match = (x.detach().float() for x in (belief, learnt, match))
        found = belief.sigmoid() * (belief > 0), learnt.sigmoid() * (learnt > 0), match
        sizes = [x.sum((2, 3, 4)) + 1 for x in found]
        pairs = ((0, 1), (0, 2), (1, 2))
        agreement = [2 * (found[i] * found[j]).sum((2, 3, 4)) / (sizes[i] + sizes[j]) for i, j in pairs]
        seen = [
            sureness(belief),
            sureness(learnt),
            *agreement,
            (sizes[1] / sizes[0]).log() / 3,
            sizes[0].log() / 10,
            (belief != 0).any(-1).any(-1).any(-1).float(),
        ]
        return torch.stack(seen, -1)


def resize(volume: Tensor, shape: tuple[int, ...]) -> Tensor:
    return volume if volume.shape[2:] == shape else F.interpolate(volume, size=shape, mode="trilinear")


class MaskDecoder(nn.Module):
    """Head of the Mask2Former family (dot product of class embedding and features) plus the evidence head."""

    def __init__(
        self,
        width: int,
        token_width: int,
        tokens: int,
        fine_width: int,
        layers: int,
        heads: int,
        evidence: Evidence,
        shared_features: int = 8,
    ) -> None:
        super().__init__()
        self.attention = TwoWayAttention(width, token_width, tokens, layers, heads)
        self.class_embedding = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, fine_width)
        )
        self.bias = nn.Parameter(torch.tensor(-2.0))
        self.evidence = evidence
        self.gate = Gate() if evidence.trust is not None else None
        if evidence.n_maps:
            self.shared = nn.Conv3d(fine_width, shared_features, 1)
            self.head = ClassHead(evidence.n_maps + 1, shared_features + evidence.voxels, evidence.voxels)

    def logits(self, fine: Tensor, voxels: Tensor, tokens: Tensor, seen: Seen | None, balance: Tensor) -> Tensor:
        """fine (b, C, x, y, z), the image's voxels in each sample (b, voxels, x, y, z), T' (b, K, m + 1, W), evidence
        or None, T's balance → (b, K, X, Y, Z), one a voxel.

        Registration's belief and what the head makes of it, weighed by the gate.
        """
        embedding, s = self.class_embedding(tokens.mean(2)), self.evidence.stride
        dot = einsum(embedding, fine, "b k c, b c x y z -> b k x y z") / fine.shape[1] ** 0.5 + self.bias
        if seen is None:
            return F.interpolate(dot, scale_factor=s, mode="trilinear") if s > 1 else dot
        of_voxels = torch.cat([self.shared(fine), voxels], 1)
        if self.gate is None:
            return by_voxel(dot[:, :, None] + self.head(seen.channels(dot), of_voxels), s)
        belief = self.evidence.belief(seen.masks.mean(2), seen.certainty)
        learnt = dot[:, :, None] + self.head(seen.channels(dot + belief), of_voxels)
        match = torch.zeros_like(dot) if seen.match is None else seen.match
        weights = self.gate(belief, learnt.mean(2), match) * balance[..., :2]
        of_belief, of_learnt = weights[..., None, None, None, None].unbind(2)
        sure = of_belief * self.evidence.trust * seen.certainty[:, :, None]
        shift = balance[..., 2, None, None, None, None] - sure
        return by_voxel(torch.addcmul(of_learnt * learnt + shift, seen.masks, 2 * sure), s)


def by_sample(values: Tensor, stride: int) -> Tensor:
    """Values of voxels (b, K, x, y, z), those of each sample together: (b, K, stride³, x/stride, …)."""
    return rearrange(values, "b k (x i) (y j) (z l) -> b k (i j l) x y z", i=stride, j=stride, l=stride)


def by_voxel(values: Tensor, stride: int) -> Tensor:
    """The inverse of ``by_sample``."""
    return rearrange(values, "b k (i j l) x y z -> b k (x i) (y j) (z l)", i=stride, j=stride, l=stride)
