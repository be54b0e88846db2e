"""The page."""

from app.ui.guard import SPACES
from app.ui.page import build, launch, serve

__all__ = ["SPACES", "build", "launch", "serve"]
