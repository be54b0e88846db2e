"""The model stays as it is; T alone is fitted to the references (in-context tuning, paper, section 3.5)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.case import InputError
from iris_core.embeddings import TaskEmbedding, context_ensemble
from iris_core.model.iris import Features, precision
from iris_core.model.losses import segmentation_loss
from iris_core.model.task_encoder import Task
from iris_core.registration import carry_over, register
from iris_core.strategies.base import Context, EncodedReference, Plan, always
from iris_core.strategies.references import Volumes, encode_all, mean_of, reference_windows

BALANCE_RATE = 0.05  # of Adam, for the balance. Ours
HEAD, REGISTRATION = (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)  # balances under which one of the two answers alone


@dataclass(frozen=True)
class Lesson:
    """One window of a reference, its image encoded once. classes: where its masks are among T's classes."""

    features: Features
    masks: Tensor
    box: Tensor
    classes: list[int]


@dataclass(frozen=True)
class Answered:
    """One window of a reference: what registration and the head answer with the other references' task, logits
    (1, k, x, y, z), and the truth. classes: where its k classes are among T's."""

    registration: Tensor
    head: Tensor
    masks: Tensor
    classes: list[int]


def tuning(context: Context) -> Plan:
    """Start from one-shot or the ensemble, follow the gradient of Dice + cross-entropy on the references.

    With several references each is segmented from the others once, and the balance of T is fitted to what was right:
    three numbers a class that say how far registration and the head are to be believed. With one, or with a model that
    does not register, T's vectors are fitted (tokens, prototypes); registration and spatial memory would find their own
    reference and learn nothing, so they are set aside meanwhile. Zero steps are the start itself.
    """
    if not context.references:
        raise InputError("tuning needs at least one reference scan with its mask, got none; a task file has no voxels")
    encoded = encode_all(context)
    start = mean_of(encoded)
    if not context.options.steps:
        return always(start)
    if len(encoded) == 1 or not context.model.registers:
        fitted = _fit(context, start.task, _lessons(context, start))
        return always(replace(start, task=fitted, detail=None))  # the detail would undo half of it
    answered = [window for i in range(len(context.references)) for window in _answered(context, start, encoded, i)]
    balance = _balance(context, start.task.balance, answered)
    return always(start.map(lambda task: replace(task, balance=balance)))


@torch.no_grad()
def _answered(context: Context, start: TaskEmbedding, encoded: list[EncodedReference], i: int) -> list[Answered]:
    """A reference's windows, segmented from all the others."""
    model, reference = context.model, context.references[i]
    embedding = context_ensemble([other.embedding for j, other in enumerate(encoded) if j != i])
    shown = {c.name: k for k, c in enumerate(reference.present())}
    names = [name for name in embedding.names if name in shown]
    theirs, own = ([table[name] for name in names] for table in ({n: k for k, n in enumerate(embedding.names)}, shown))
    volumes, windows = Volumes.of(reference, start.scheme), []
    device = next(model.parameters()).device
    registered = [register(volumes.scan.to(device), s.to(device)) for s in embedding.references if model.registers]
    context.progress(i, len(context.references) + context.options.steps)
    for window in reference_windows(model, volumes, embedding.spacing_mm) if names else ():
        carried = carry_over(registered, window.lattice, model.config.stem_stride) if registered else None
        task = embedding.task.map(lambda t: t.to(device))
        with precision(device):
            features = model.encode_image(window.image)
            evidence = model.compare(features, task, window.box, carried)
            registration, head = (
                model.decode(features, _with_balance(task, balance), window.box, evidence=evidence)[:, theirs].float()
                for balance in (REGISTRATION, HEAD)
            )
        windows.append(Answered(registration, head, window.masks[:, own], [start.names.index(n) for n in names]))
    return windows


def _with_balance(task: Task, balance: tuple[float, float, float]) -> Task:
    return replace(task, balance=task.balance.new_tensor(balance).expand_as(task.balance))


def _balance(context: Context, start: Tensor, answered: list[Answered]) -> Tensor:
    """The balance (1, K, 3) under which the windows' answers are best; a class that none shows keeps its own."""
    balance = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([balance], lr=BALANCE_RATE)
    first, steps = len(context.references), context.options.steps
    for step in range(steps):
        context.progress(first + step, first + steps)
        loss = balance.new_zeros(())
        for window in answered:
            of = balance[:, window.classes, :, None, None, None].unbind(2)
            logits = of[0] * window.registration + of[1] * window.head + of[2]
            loss = loss + segmentation_loss(logits, window.masks) / len(answered)
        if not answered:
            break
        (balance.grad,) = torch.autograd.grad(loss, balance)
        optimiser.step()
        with torch.no_grad():
            balance[..., :2].clamp_(min=0)
    return balance.detach().half().float()


@torch.no_grad()
def _lessons(context: Context, start: TaskEmbedding) -> list[Lesson]:
    lessons = []
    for reference in context.references:
        classes = [start.names.index(c.name) for c in reference.present()]
        for window in reference_windows(context.model, Volumes.of(reference, start.scheme), start.spacing_mm):
            with precision(window.image.device):
                lessons.append(Lesson(context.model.encode_image(window.image), window.masks, window.box, classes))
    return lessons


def _fit(context: Context, task: Task, lessons: list[Lesson]) -> Task:
    task = task.map(Tensor.clone)  # what inference mode made cannot be learnt through
    vectors = [part.clone().requires_grad_() for part in (task.tokens, task.prototypes)]
    optimiser = torch.optim.Adam(vectors, lr=context.options.rate)
    for step in range(context.options.steps):
        context.progress(step, context.options.steps)
        loss = _loss(context, _with(task, vectors), lessons)
        for vector, gradient in zip(vectors, torch.autograd.grad(loss, vectors), strict=True):
            vector.grad = gradient
        optimiser.step()
    return _with(task, [v.detach() for v in vectors]).rounded()


def _with(task: Task, vectors: list[Tensor]) -> Task:
    tokens, prototypes = vectors
    return replace(task, tokens=tokens, prototypes=F.normalize(prototypes, dim=-1))


def _loss(context: Context, task: Task, lessons: list[Lesson]) -> Tensor:
    """Mean over the windows of the references."""
    losses = []
    for lesson in lessons:
        with precision(lesson.box.device):
            logits = context.model.decode(lesson.features, task.bare(), lesson.box)
        losses.append(segmentation_loss(logits[:, lesson.classes], lesson.masks))
    return torch.stack(losses).mean()
