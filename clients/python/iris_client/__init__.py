"""Show one scan, segment the rest, with an `iris serve` on this machine or another."""

from iris_client.case import Case, LabelClass, plain_classes, read_reference, read_scan
from iris_client.client import Client, Task
from iris_client.errors import InputError, IrisError, ServerError

__all__ = [
    "Case",
    "Client",
    "InputError",
    "IrisError",
    "LabelClass",
    "ServerError",
    "Task",
    "plain_classes",
    "read_reference",
    "read_scan",
]
