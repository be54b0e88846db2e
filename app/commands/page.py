"""`iris app`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class App:
    """Open the page: show one scan with its mask, segment the rest, look at it in 3D."""

    weights: str = "iris-small"
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 7860
    sample: bool = False
    """Open with a sample already segmented."""
    open_browser: bool = True
    mcp: bool = False
    """Offer the page's endpoints as tools of the Model Context Protocol too. Needs gradio[mcp]."""

    def run(self) -> int:
        from app.ui import launch

        launch(self.weights, self.device, self.host, self.port, self.sample, self.open_browser, self.mcp)
        return 0
