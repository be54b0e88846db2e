"""How long a DICOM file's elements say they are, checked before GDCM believes them: it takes the memory that a length
of 32 bits asks for, up to 4 GiB, before it sees that the file is shorter.
"""

import mmap
import struct
from pathlib import Path

from iris_core.case import InputError

PREAMBLE = 128
ITEM, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)
PIXELS = (0x7FE0, 0x0010)
UNDEFINED = 0xFFFFFFFF
SHORT = set(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
LONG = set(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
KNOWN = SHORT | LONG
IMPLICIT, BIG, DEFLATED = b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.2", b"1.2.840.10008.1.2.1.99"
PLAIN = (IMPLICIT, BIG, b"1.2.840.10008.1.2.1")
MOST = 2**20  # elements of a file: an enhanced series has a hundred a slice


def check_lengths(path: Path) -> bool:
    """Whether a DICOM file's pixels are compressed. Raises InputError where an element would end beyond the file.

    Other files are let through: whoever reads DICOM passes over them.
    """
    if path.stat().st_size < PREAMBLE + 8:
        return False
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[PREAMBLE : PREAMBLE + 4] == b"DICM":
            at = PREAMBLE + 4
        elif data[:2] in (b"\x02\0", b"\x08\0", b"\0\x08"):  # old files begin at once
            at = 0
        else:
            return False
        return _walk(path, data, at)


def _walk(path: Path, data: mmap.mmap, at: int) -> bool:
    """Element by element, into sequences and items too, whose elements follow one another like those around them."""
    end, syntax, order, implicit, fragments = len(data), b"", "<", False, False
    guessed = False
    for _ in range(MOST):
        if at + 8 > end:
            return syntax not in (b"", *PLAIN)
        if not guessed and data[at : at + 2] != b"\x02\0":  # the meta group is over
            if syntax == DEFLATED:
                raise InputError(f"{path}: must not be deflated as a whole; save it as Explicit VR Little Endian")
            order, guessed = ">" if syntax == BIG else "<", True
            implicit = syntax == IMPLICIT or data[at + 4 : at + 6] not in KNOWN
        tag = struct.unpack_from(f"{order}HH", data, at)
        kind, first = data[at + 4 : at + 6], at + 8
        if tag[0] == 0xFFFE or implicit or kind not in KNOWN:  # some files mix both forms
            (length,) = struct.unpack_from(f"{order}I", data, at + 4)
        elif kind in LONG:
            first += 4
            length = struct.unpack_from(f"{order}I", data, at + 8)[0] if first <= end else end
        else:
            (length,) = struct.unpack_from(f"{order}H", data, at + 6)
        if length != UNDEFINED and first + length > end:
            raise InputError(
                f"{path}: its element {tag[0]:04x},{tag[1]:04x} promises {length} bytes, the file holds"
                f" {max(0, end - first)} more; it is cut off or damaged"
            )
        if tag == (2, 0x10) and not guessed:
            syntax = data[first : first + length].rstrip(b"\0 ")
        if length == UNDEFINED:
            fragments, length = fragments or tag == PIXELS, 0
        elif tag == SEQUENCE_END:
            fragments = False
        elif (tag == ITEM and not fragments) or (kind == b"SQ" and not implicit and tag[0] != 0xFFFE):
            length = 0
        at = first + length
    raise InputError(f"{path}: a DICOM file must have {MOST} elements at most")
