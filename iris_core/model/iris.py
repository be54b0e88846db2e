"""The whole model, and the configuration that rebuilds it."""

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from iris_core.model.encoder import Encoder, UpPath, folded
from iris_core.model.mask_decoder import Evidence, MaskDecoder, Seen
from iris_core.model.task_encoder import Task, TaskEncoder
from iris_core.registration import Carried

TASK_STRIDE = 4  # Eq. 3 needs C divisible by stride³ (paper.md): stride 4 is the coarsest that fits
MOST_WIDE, MOST_DEEP = 4096, 16  # what a damaged configuration may ask for: layers are built before they are compared


@dataclass(frozen=True)
class IrisConfig:
    """Everything that decides the shape of the weights. A checkpoint's config.json is exactly this.

    The defaults are the paper's where it says something. ``prototypes``, ``location_prior``, ``spatial_memory``
    and ``registration`` are ours (weights/TRAINING.md): matching that is built in rather than learned.

    The paper's own three parts can be left out for its ablation (Table 4): ``high_resolution`` (else the mask is
    sampled at the features' grid before anything reads it), ``foreground`` (else T_f is zero) and ``query_tokens``
    (0: there is no T_c).
    """

    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    blocks: tuple[int, ...] = (2, 2, 2, 2, 3)
    up_blocks: int = 2
    stem_stride: int = 1
    window: int = 128
    query_tokens: int = 10
    attention_layers: int = 2
    heads: int = 8
    prototypes: bool = False
    prototype_width: int = 32
    location_prior: bool = False
    spatial_memory: bool = False
    memory_width: int = 64
    registration: bool = False
    high_resolution: bool = True
    foreground: bool = True

    def __post_init__(self) -> None:
        for name in ("widths", "blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        counts = (len(self.widths), *self.blocks, self.up_blocks, self.attention_layers)
        sizes = (
            *self.widths,
            *self.blocks,
            self.stem_stride,
            self.window,
            self.heads,
            self.prototype_width,
            self.memory_width,
        )
        whole = all(type(n) is int and 0 < n <= MOST_WIDE for n in sizes) and all(type(n) is int for n in counts)
        if not whole or not all(0 <= n <= MOST_DEEP for n in counts) or not 0 <= self.query_tokens <= MOST_WIDE:
            raise ValueError(f"sizes must be 1 to {MOST_WIDE} and numbers of layers up to {MOST_DEEP}, got {self}")
        if len(self.widths) != len(self.blocks):
            raise ValueError(f"widths and blocks must have one entry a level, got {self.widths} and {self.blocks}")
        if not self.foreground and not self.query_tokens:
            raise ValueError("T must hold foreground or query_tokens, got neither")
        if self.window % self.multiple:
            raise ValueError(f"window must be a multiple of {self.multiple}, got {self.window}")

    @property
    def multiple(self) -> int:
        """Every edge of an image given to the model is a multiple of this: the coarsest stride."""
        return self.stem_stride * 2 ** (len(self.widths) - 1)

    @property
    def least_weights(self) -> int:
        """Weights of the stem and of the encoder's second convolutions alone: known before there is a model, and a good
        part of it."""
        second = sum(n * width**2 for n, width in zip(self.blocks, self.widths, strict=True))
        return 27 * (second + self.stem_stride**3 * self.widths[0])

    def to_dict(self) -> dict:
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


PARTS = (
    "high_resolution",
    "foreground",
    "query_tokens",
    "prototypes",
    "location_prior",
    "spatial_memory",
    "registration",
)


def without(config: IrisConfig, *parts: str) -> IrisConfig:
    """The configuration with some of PARTS left out."""
    return replace(config, **{part: 0 if part == "query_tokens" else False for part in parts})


PRESETS = {
    "base": IrisConfig(),
    "small": IrisConfig(
        widths=(16, 64, 128, 192),
        blocks=(1, 1, 1, 2),
        up_blocks=1,
        stem_stride=2,
        window=96,
        attention_layers=2,
        heads=4,
        prototypes=True,
        location_prior=True,
        spatial_memory=True,
        registration=True,
    ),
    "tiny": IrisConfig(
        widths=(8, 64, 16),
        blocks=(1, 1, 1),
        up_blocks=1,
        stem_stride=2,
        window=32,
        query_tokens=3,
        attention_layers=1,
        heads=2,
        prototypes=True,
        prototype_width=8,
        location_prior=True,
        spatial_memory=True,
        registration=True,
        memory_width=8,
    ),
}


@dataclass(frozen=True)
class Features:
    """What the encoder says of an image, before any task. voxels: the image itself, one channel for each voxel of a
    sample. up: the unconditioned up-path, coarsest first, or empty."""

    voxels: Tensor
    skips: list[Tensor]
    bottleneck: Tensor
    up: list[Tensor]


class Iris(nn.Module):
    """``encode_image`` once an image, ``encode_task`` once a reference, ``decode`` once a query and task."""

    def __init__(self, config: IrisConfig) -> None:
        super().__init__()
        self.config = config
        widths, top = config.widths, len(config.widths) - 1
        self.task_level = (TASK_STRIDE // config.stem_stride).bit_length() - 1
        self.matched = sorted({0, top - 1, top}) if config.prototypes else []  # of the up-path: coarsest, two finest
        up_widths = widths[::-1]
        self.encoder = Encoder(widths, config.blocks, config.stem_stride)
        self.up_path = UpPath(widths, config.up_blocks)
        self.task_encoder = TaskEncoder(
            channels=widths[self.task_level],
            stride=TASK_STRIDE,
            query_tokens=config.query_tokens,
            heads=config.heads,
            prototype_channels=tuple(up_widths[i] for i in self.matched),
            prototype_width=config.prototype_width,
            location_prior=config.location_prior,
            memory_channels=up_widths[1],
            memory_width=config.memory_width if config.spatial_memory else 0,
            high_resolution=config.high_resolution,
            foreground=config.foreground,
        )
        self.mask_decoder = MaskDecoder(
            width=widths[-1],
            token_width=widths[self.task_level],
            tokens=config.query_tokens + 1,
            fine_width=widths[0],
            layers=config.attention_layers,
            heads=config.heads,
            evidence=Evidence(
                len(self.matched),
                config.location_prior,
                config.spatial_memory,
                config.registration,
                config.stem_stride,
            ),
        )

    @property
    def registers(self) -> bool:
        """Whether queries are registered to references."""
        return self.config.registration

    def encode_image(self, image: Tensor) -> Features:
        """image (b, 1, x, y, z), normalised, edges multiples of ``config.multiple``."""
        *skips, bottleneck = self.encoder(image)
        conditioned_only = not (self.matched or self.config.spatial_memory)
        voxels = folded(image, self.config.stem_stride)
        return Features(voxels, skips, bottleneck, [] if conditioned_only else self.up_path(bottleneck, skips))

    def encode_task(self, reference: Features, masks: Tensor, box: Tensor) -> Task:
        """masks (b, K, x, y, z) in [0, 1] on the reference's window; box (b, 2, 3): the window in its field of view."""
        up = reference.up
        return self.task_encoder(
            up[len(up) - 1 - self.task_level] if up else reference.skips[self.task_level],
            [up[i] for i in self.matched],
            up[1] if self.config.spatial_memory else None,
            masks,
            box,
        )

    def compare(self, query: Features, task: Task, box: Tensor, carried: Carried | None = None) -> Seen | None:
        """Evidence, at ``config.stem_stride``: what sets query and T side by side. None for the paper's own decoder.

        carried: the reference's masks where registration finds them, one value a voxel of the query; and how certain
        that is, one value for ``config.stem_stride`` voxels along each axis.
        """
        if not self.mask_decoder.evidence.n_maps:
            return None
        levels = [p(query.up[i]) for p, i in zip(self.task_encoder.projections, self.matched, strict=True)]
        memory = query.up[1] if self.config.spatial_memory else None
        keys = None if memory is None else self.task_encoder.memory_keys(memory, box)
        coarse = None if memory is None else tuple(memory.shape[2:])
        return self.mask_decoder.evidence(task, levels, keys, carried, coarse, tuple(query.skips[0].shape[2:]), box)

    def decode(
        self, query: Features, task: Task, box: Tensor, carried: Carried | None = None, evidence: Seen | None = None
    ) -> Tensor:
        """Logits (b, K, x, y, z) of all K classes, one a voxel of the query.

        carried: as of ``compare``. evidence: of ``compare``, where it is known already.
        """
        bottleneck, tokens = self.mask_decoder.attention(query.bottleneck, task.tokens, box)
        fine = self.up_path(bottleneck.to(query.bottleneck.dtype), query.skips)[-1]
        evidence = self.compare(query, task, box, carried) if evidence is None else evidence
        return self.mask_decoder.logits(fine, query.voxels, tokens, evidence, task.balance)

    def decoded(self, image: Tensor, task: Task, box: Tensor, carried: Carried | None = None) -> Tensor:
        """``decode`` of an image (b, 1, x, y, z)."""
        return self.decode(self.encode_image(image), task, box, carried)

    def forward(
        self,
        reference: Tensor,
        masks: Tensor,
        reference_box: Tensor,
        query: Tensor,
        query_box: Tensor,
        carried: Carried | None = None,
    ) -> Tensor:
        """One episode: logits (b, K, x, y, z)."""
        task = self.encode_task(self.encode_image(reference), masks, reference_box)
        return self.decoded(query, task, query_box, carried)


def precision(device: torch.device) -> torch.autocast:
    """bfloat16 autocast where the processor has it (CUDA, AMX, AVX512-BF16), else a context that does nothing."""
    if device.type == "cpu":
        fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    else:
        fast = device.type == "cuda"
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)
