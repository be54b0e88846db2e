"""The model stays as it is; T alone is fitted to the references (in-context tuning, paper, section 3.5)."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_core.case import InputError
from iris_core.embeddings import TaskEmbedding
from iris_core.model.iris import Features, precision
from iris_core.model.losses import segmentation_loss
from iris_core.model.task_encoder import Task
from iris_core.strategies.base import Given, Plan, always
from iris_core.strategies.references import Volumes, encode_all, mean_of, reference_windows

CHECK_EVERY = 5  # steps between looks at the reference left out


@dataclass(frozen=True)
class Lesson:
    """One window of a reference, its image encoded once. classes: where its masks are among T's classes."""

    features: Features
    masks: Tensor
    box: Tensor
    classes: list[int]


def tuning(given: Given) -> Plan:
    """Start from one-shot or the ensemble, follow the gradient of Dice + cross-entropy on the references.

    Only the vectors of T move (tokens, prototypes); the spatial memory would find its own reference and learn nothing,
    so it is set aside while fitting and stays as it was. With two references or more the last is left out of the loss
    and says which step was best, the start included: T overfits otherwise. Zero steps are the start itself.
    """
    if not given.references:
        raise InputError("tuning needs at least one reference scan with its mask, got none; a task file has no voxels")
    start = mean_of(encode_all(given))
    if not given.options.steps:
        return always(start)
    lessons = [_lessons(given, start, i) for i in range(len(given.references))]
    return always(replace(start, task=_fit(given, start.task, lessons)))


@torch.no_grad()
def _lessons(given: Given, start: TaskEmbedding, i: int) -> list[Lesson]:
    reference = given.references[i]
    classes = [start.names.index(c.name) for c in reference.present()]
    lessons = []
    for window in reference_windows(given.model, Volumes.of(reference, start.scheme), start.spacing_mm):
        with precision(window.image.device):
            features = given.model.encode_image(window.image)
        lessons.append(Lesson(features, window.masks, window.box, classes))
    return lessons


def _fit(given: Given, task: Task, lessons: list[list[Lesson]]) -> Task:
    train, left_out = (lessons[:-1], lessons[-1]) if len(lessons) > 1 else (lessons, [])
    vectors = [part.clone().requires_grad_() for part in (task.tokens, task.prototypes)]
    optimiser = torch.optim.Adam(vectors, lr=given.options.rate)
    best, best_loss = _with(task, vectors), _loss(given, task, left_out).item()
    for step in range(given.options.steps):
        given.progress(step, given.options.steps)
        loss = _loss(given, _with(task, vectors, detach=False), train[step % len(train)])
        for vector, gradient in zip(vectors, torch.autograd.grad(loss, vectors), strict=True):
            vector.grad = gradient
        optimiser.step()
        if not left_out:
            best = _with(task, vectors)
        elif (step + 1) % CHECK_EVERY == 0:
            with torch.no_grad():
                now = _loss(given, _with(task, vectors), left_out).item()
            if now < best_loss:
                best, best_loss = _with(task, vectors), now
    return best.map(lambda t: t.half().float())


def _with(task: Task, vectors: list[Tensor], detach: bool = True) -> Task:
    tokens, prototypes = (v.detach().clone() if detach else v for v in vectors)
    return replace(task, tokens=tokens, prototypes=F.normalize(prototypes, dim=-1))


def _loss(given: Given, task: Task, lessons: list[Lesson]) -> Tensor:
    """Mean over the windows of a reference; 0 without any."""
    losses = [task.tokens.new_zeros(())]
    for lesson in lessons:
        parts = (part[:, lesson.classes] for part in (task.tokens, task.prototypes, task.location))
        with precision(lesson.box.device):
            logits = given.model.decode(lesson.features, Task.compact(*parts), lesson.box)
        losses.append(segmentation_loss(logits, lesson.masks) / len(lessons))
    return sum(losses)
