"""Which variant a place runs next."""

from onesentence.core import params
from onesentence.study.pool import READ_IN_ORDER, next_of


def test_a_job_takes_the_variant_that_shares_most_with_what_it_has():
    """Where decoding alone differs, nothing is trained again; a killed variant goes before all others."""
    other = {"lora.rank": 16, "generate.num_beams": 1, "data.train_size": 8, "seed": 0}
    experiments = {
        "as-set": other,
        "more-data": other | {"data.train_size": 9},
        "seed": other | {"seed": 1},
        "rank": other | {"lora.rank": 8},
        "beams": other | {"generate.num_beams": 4},
    }
    waiting = ["more-data", "seed", "rank", "beams"]
    for last, held, wanted in (
        ("as-set", set(), "beams"),
        ("as-set", {"beams"}, "seed"),  # another job's clone has made more of it
        ("as-set", set(waiting), "beams"),  # and when nothing else waits
        ("rank", {"rank"}, "rank"),
        ("", set(), "more-data"),
        ("", {"more-data"}, "seed"),
        ("of-another-study", set(), "more-data"),
    ):
        assert next_of(waiting, last, held, experiments) == wanted
    assert next_of(waiting[:1], "as-set", set(), experiments) == "more-data"
    assert sorted(READ_IN_ORDER) == sorted(params.SCHEMA)
