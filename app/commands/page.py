"""`iris app | serve`."""

from dataclasses import dataclass, field

from app.limits import Limits


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
    """Offer the page's endpoints as tools of the Model Context Protocol too; then files that a program names
    by a public address are fetched, of any size. Needs gradio[mcp]."""
    embed: tuple[str, ...] = ()
    """Sites whose pages may show this one in a frame, for example https://huggingface.co; by default none."""
    limits: Limits = field(default_factory=Limits.of_environment)
    """What visitors may take of this machine."""

    def run(self) -> int:
        from app.ui import launch

        place = self.host, self.port
        launch(self.weights, self.device, *place, self.sample, self.open_browser, self.mcp, self.limits, self.embed)
        return 0


@dataclass(frozen=True)
class Serve:
    """Serve programs without a page: encode, segment, classes, as the Python client and curl call them."""

    weights: str = "iris-small"
    """Name of released weights, a checkpoint folder, or owner/name[@revision] on the Hugging Face Hub."""
    device: str = "auto"
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every network of this machine, for which a token is wanted."""
    port: int = 7860
    token: str | None = None
    """Who does not send `Authorization: Bearer TOKEN` is refused. It goes over the network as it is: where others may
    listen, put a proxy with HTTPS before the server."""
    limits: Limits = field(default_factory=Limits.of_environment)
    """What callers may take of this machine."""

    def run(self) -> int:
        from app.ui.server import launch

        launch(self.weights, self.device, self.host, self.port, self.token, self.limits)
        return 0
