"""Fuzzing of every reader: mutated bytes and mutated structures give a success or one sentence.

The targets are those of `python -m benchmarks.fuzz`, which looks for inputs for hours.
"""

import json
import os
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz import TARGETS, run_target, seeds

os.environ["HF_HUB_OFFLINE"] = "1"
# Fixed random numbers, so that a failure comes again where the same modules are loaded: hypothesis takes
# constants from them.
BOUNDED = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "40")),
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
STRUCTURED = (
    "json",
    "ratings",
    "summarize",
    "completion",
    "exported",
    "adapter",
    "index",
    "config",
    "evaluation",
)
STRUCTURED += ("tokenizer.json", "tokenizer_config.json", "params", "studies")
NAUGHTY = st.sampled_from(
    [
        "",
        "\x00",
        "\x1b[31m",
        "\u202e",
        "\ud800",
        "../x",
        "/etc/passwd",
        "NaN",
        "null",
        "{article}",
        "=1+1",
        "\n- a",
    ]
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([0, -1, 2**63, 10**30, 1e308]),
    st.floats(allow_nan=False, allow_infinity=False), NAUGHTY, st.text(max_size=12),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(NAUGHTY | st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The path of every part of a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in items for place in places(part, (*path, key)))]


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """A copy of a value with the part at `path` replaced; `...` removes it."""
    if not path:
        return None if new is ... else new
    key, *rest = path
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    parts = [(k, replaced(part, tuple(rest), new) if k == key else part) for k, part in items]
    kept = [(k, part) for k, part in parts if not (k == key and not rest and new is ...)]
    return dict(kept) if isinstance(value, dict) else [part for _, part in kept]


@st.composite
def mutated_bytes(draw: st.DrawFn, seed: bytes) -> bytes:
    """The seed with a few bytes changed, removed, repeated or put in, or cut off; or bytes alone."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 5)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                data[at:at] = draw(st.binary(max_size=8))
            case 2:
                del data[at : at + draw(st.integers(1, 16))]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case _:
                data[at:at] = draw(NAUGHTY).encode("utf-8", "surrogatepass")
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_the_seed_itself_is_accepted(name):
    assert run_target(name, seeds()[TARGETS[name][1]]) is None


@pytest.mark.parametrize("name", TARGETS)
def test_changed_bytes_give_a_success_or_a_sentence(name):
    @BOUNDED
    @given(mutated_bytes(seeds()[TARGETS[name][1]]))
    def check(data):
        run_target(name, data)

    check()


@pytest.mark.parametrize("name", [name for name, (_, seed) in TARGETS.items() if seed in STRUCTURED])
def test_changed_structures_give_a_success_or_a_sentence(name):
    seed = TARGETS[name][1]
    is_yaml = seed in ("params", "studies")
    value = yaml.safe_load(seeds()[seed]) if is_yaml else json.loads(seeds()[seed])

    @BOUNDED
    @given(st.lists(st.tuples(st.sampled_from(places(value)), VALUES | st.just(...)), min_size=1, max_size=3))
    def check(changes):
        changed = value
        for path, new in changes:
            if path in places(changed):
                changed = replaced(changed, path, new)
        run_target(name, json.dumps(changed).encode())

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_refuses_nonsense_in_a_sentence(name):
    """The fuzzers would pass if a target swallowed everything: here it must speak."""
    said = [run_target(name, data) for data in (b"", b"\x00\xff\xfe" * 30, b"[" * 5_000, b"{" * 5_000)]
    assert any(said) or name in ("prompt", "card"), said
