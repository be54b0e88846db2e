"""What goes wrong: IrisError, of which each is either an InputError or a ServerError."""


class IrisError(Exception):
    """All that this package raises by itself."""


class InputError(IrisError, ValueError):
    """Input that cannot be used. The message names it, says what was found and what to do."""


class ServerError(IrisError, ConnectionError):
    """The server cannot be reached, refuses the token, or failed."""
