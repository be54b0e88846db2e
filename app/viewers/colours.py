"""One palette for all viewers. Colour-blind friendly: Okabe and Ito's, then Tol's muted scheme."""

PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
    (136, 34, 85),
    (153, 153, 51),
    (170, 68, 153),
    (68, 170, 153),
    (204, 102, 119),
    (51, 34, 136),
    (221, 204, 119),
    (17, 119, 51),
)

ERRORS = ((0, 158, 115), (213, 94, 0), (86, 180, 233))  # both agree; the mask alone; the truth alone


def colour(index: int) -> tuple[int, int, int]:
    """Red, green, blue (0 to 255) of the class with this index, counted from 0; the palette repeats."""
    return PALETTE[index % len(PALETTE)]


def css(index: int) -> str:
    """The same colour as CSS and Plotly write it."""
    return "rgb({}, {}, {})".format(*colour(index))
