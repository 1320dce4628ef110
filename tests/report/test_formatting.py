"""Numbers as text."""

import pytest

from onesentence.report.formatting import formatted, p_text


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-0.004, "+.2f", "+0.00"),
        (-0.004, ".2f", "0.00"),
        (-0.0, ".1f", "0.0"),
        (0.004, "+.2f", "+0.00"),
        (-0.006, "+.2f", "-0.01"),
        (-10.0, "+.1f", "-10.0"),
        (-1_000.0, ",.0f", "-1,000"),
        (-1.0, ".0%", "-100%"),
        (float("-inf"), ".2f", "-inf"),
        (float("nan"), ".2f", "nan"),
    ],
)
def test_a_zero_has_no_sign_of_its_own(value, form, text):
    assert formatted(value, form) == text


def test_no_p_value_is_zero():
    assert [p_text(p) for p in (0.0, 0.00004, 0.00006, 0.02134, 1.0)] == [
        "p < 0.0001",
        "p < 0.0001",
        "p = 0.0001",
        "p = 0.0213",
        "p = 1.0000",
    ]
