"""Bytes spoilt at random: what a bad disk, a bad cable or a malicious hand makes of a file."""

from random import Random

HEADER = 600  # bytes in which most formats say what they hold
RUNS = b'\x00\xff \n0A(,[{<:=\t"\\'
EXTREMES = [
    value.to_bytes(size, order)
    for size in (2, 4, 8)
    for value in (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)
    for order in ("little", "big")
] + [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f", b"\x01\x00\x00\x00", b"\x00\x00\x80\xbf"]


def flipped(data: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flipped_in_header(data: bytearray, rng: Random) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 4))):
        data[rng.randrange(min(HEADER, len(data)))] ^= 1 << rng.randrange(8)
    return data


def overwritten(data: bytearray, rng: Random) -> bytearray:
    """Extremes somewhere in the header."""
    for _ in range(rng.choice((1, 1, 2))):
        value = rng.choice(EXTREMES)
        at = rng.randrange(min(HEADER, len(data)))
        data[at : at + len(value)] = value
    return data


def set_bytes(data: bytearray, rng: Random) -> bytearray:
    at = rng.randrange(min(HEADER, len(data)))
    n = rng.choice((1, 1, 2, 4, 16))
    data[at : at + n] = bytes([rng.choice((0, 255, 127, 128))]) * n
    return data


def truncated(data: bytearray, rng: Random) -> bytearray:
    return data[: rng.choice((0, 1, 4, rng.randrange(len(data)), rng.randrange(min(HEADER, len(data))), len(data) - 1))]


def doubled(data: bytearray, rng: Random) -> bytearray:
    at, n = _part(data, rng)
    return data[: at + n] + data[at:] if rng.random() < 0.8 else data + data


def run_inserted(data: bytearray, rng: Random) -> bytearray:
    """A long run of one byte: what is not linear in the file takes for ever."""
    at = rng.randrange(min(HEADER, len(data)) if rng.random() < 0.7 else len(data))
    return data[:at] + bytes([rng.choice(RUNS)]) * rng.choice((10, 1000, 100_000, 2_000_000)) + data[at:]


def swapped(data: bytearray, rng: Random) -> bytearray:
    (a, n), (b, m) = sorted((_part(data, rng), _part(data, rng)))
    n = min(n, b - a)
    return data[:a] + data[b : b + m] + data[a + n : b] + data[a : a + n] + data[b + m :]


def removed(data: bytearray, rng: Random) -> bytearray:
    at, n = _part(data, rng)
    return data[:at] + data[at + n :]


def _part(data: bytearray, rng: Random) -> tuple[int, int]:
    at = rng.randrange(min(HEADER, len(data)) if rng.random() < 0.5 else len(data))
    return at, rng.choice((1, 2, 8, 64, 512, 4096))


MUTATIONS = (
    flipped, flipped_in_header, flipped_in_header, overwritten, set_bytes, truncated, doubled, run_inserted, swapped,
    removed,
)  # fmt: skip


def spoilt(data: bytes, rng: Random) -> tuple[bytes, str]:
    """Other bytes, and what was done to them."""
    if not data:
        return b"\0", "one byte"
    change = rng.choice(MUTATIONS)
    return bytes(change(bytearray(data), rng)), change.__name__
