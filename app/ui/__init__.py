"""The page."""

from app.ui.page import build, launch, serve

__all__ = ["build", "launch", "serve"]
