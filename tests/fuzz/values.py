"""Hostile values, drawn by Hypothesis: names, numbers, and JSON that is none or means something else."""

import json
from functools import cache

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

NAMES = (
    "", " ", "\n", "liver\nspleen", "a\r\nb", "..", "../../etc/passwd", "/etc/passwd", "a\x00b", "\x1b[31mred", "🫀",
    "\u202eevil", "\u200b", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "&lt;", '"', "'", "\\", "\\\\",
    "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "%s%n%x", "{0}", "${PATH}", "a" * 100_000, "1=2", "a,b;c", "None",
    "background", "ignore", "anterior", "nan", "\ud7ff", "ﷺ" * 50, "con", "a/b", "a:b",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30,
    10**400, 0.5, -0.0, 1e-30, 1e30, 1e38, 1e300, 5e-324, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
NUMBERS_AS_TEXT = (
    *map(repr, (v for v in NUMBERS if v != 10**400)), "1e400", "0x10", "1,5", "1_000", "٣", "1" * 5000, "1 1 1", "1\\2",
    "1\\nan\\3", "\\\\", "(1,2,3)", "(nan,0,0)", "none", "3 3 3", "1e-30 1e-30 1e-30", "1e30 1e30 1e30", "0 0 0",
    "4096 1 1", "1 1 4096", "100000 100000 100000", "-3", "2147483647 2147483647 2147483647", "1 " * 2000,
)  # fmt: skip
RAW_JSON = (
    "[" * 200_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[" * 9000 + "]" * 9000, "1e400", "NaN",
    "-Infinity", "9" * 5000, "9" * 4000, "null", "true", "false", "{}", "[]", '""', "[[]]", "[null]", "[{}]",
    '{"": ""}',
    '"\\ud800"', '"\\u0000"', "01", "'a'", "[1,]", "/**/1", '{"0": "a", "0": "b"}', "[1, 1, 1]", '["a"]', '["a", "a"]',
    '[["a"]]', '{"labels": 1}', "[" + "0," * 200_000 + "0]", '"' + "a" * 200_000 + '"',
)  # fmt: skip


def names():
    return st.sampled_from(NAMES) | st.text(max_size=40)


def numbers():
    return st.sampled_from(NUMBERS) | st.floats() | st.integers(-(2**70), 2**70)


def as_text():
    return st.sampled_from(NUMBERS_AS_TEXT) | names() | numbers().map(_written)


def raw_json():
    plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | names()
    few = {"max_size": 3}
    nested = st.recursive(plain, lambda inner: st.lists(inner, **few) | st.dictionaries(names(), inner, **few))
    return st.sampled_from(RAW_JSON) | numbers().map(_written) | nested.map(json.dumps)


def _written(number) -> str:
    return "1" + "0" * 400 if number == 10**400 else repr(number)


STRATEGIES = {"names": names, "numbers": numbers, "text": as_text, "json": raw_json}


@cache
def drawn(kind: str, number: int = 400) -> tuple:
    """So many values of one of STRATEGIES, always the same."""
    found = []

    @seed(0)
    @settings(
        max_examples=number, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(STRATEGIES[kind]())
    def collect(value) -> None:
        found.append(value)

    collect()
    return tuple(found)
