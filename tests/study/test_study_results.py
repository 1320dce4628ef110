"""A comparison's result is read again, and a damaged one is named with the way back."""

import json

import pytest
from conftest import ROOT

from onesentence.core.errors import UserError
from onesentence.study.results import STUDIES, read_result


def test_a_committed_result_is_read():
    path = ROOT / STUDIES / "rank.json"
    assert read_result(path) == json.loads(path.read_text())


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"study": "rank"}'])
def test_a_damaged_result_is_named_with_the_way_back(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    STUDIES.mkdir(parents=True)
    path = STUDIES / "rank.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"rank\.json: .*restore it: `git checkout -- metrics/studies/rank"):
        read_result(path)
