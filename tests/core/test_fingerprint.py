"""A fingerprint changes with everything that determines a result, and with nothing else."""

import pytest

from onesentence.core import fingerprint as module
from onesentence.core.fingerprint import fingerprint, model_files


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/train.py").write_text("RATE = 1\n")
    (tmp_path / "rows.parquet").write_bytes(b"rows")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def of(project, **values) -> str:
    files = [project / "rows.parquet", *model_files("model")]
    return fingerprint("stages.train", files, {"train.epochs": 1, **values})


def test_comments_and_files_that_are_not_imported_do_not_count(project):
    key = of(project)
    (project / "stages/train.py").write_text("RATE = 1  # why\n")
    (project / "stages/report.py").write_text("OTHER = 1\n")
    assert of(project) == key and len(key) == 16 and int(key, 16)


def test_code_data_base_settings_and_packages_count(project, monkeypatch):
    keys = [of(project), of(project, seed=1)]
    (project / "stages/train.py").write_text("RATE = 2\n")
    keys.append(of(project))
    (project / "rows.parquet").write_bytes(b"other")
    keys.append(of(project))
    (project / "model/model.safetensors").write_bytes(b"others")
    keys.append(of(project))
    (project / "model/tokenizer.json").write_text("{}")
    keys.append(of(project))
    monkeypatch.setattr(module, "_version", lambda name: "0")
    keys.append(of(project))
    monkeypatch.setattr(module, "_device", lambda formats: "a card")
    keys.append(of(project))
    assert len(set(keys)) == len(keys)


def test_no_name_is_no_folder(project):
    """The path of an empty name is the working directory, with everything that changes in it."""
    assert model_files("") == [] and model_files("owner/name") == [] and model_files("漢" * 100) == []


def test_bfloat16_instructions_count_only_where_bfloat16_is_computed(project, monkeypatch):
    def keys(formats):
        found = set()
        for has in (True, False):
            monkeypatch.setattr(module, "has_bfloat16_instructions", lambda has=has: has)
            found.add(fingerprint("stages.train", [], {}, formats))
        return found

    assert len(keys(["float32", "none"])) == 1 and len(keys(["float32", "bfloat16"])) == 2


def test_the_key_of_training_ignores_where_losses_are_shown(monkeypatch):
    from types import SimpleNamespace

    from stages import train

    def settings(**values) -> dict:
        sections = {"model": {"name": "m"}, "lora": {"rank": 4}, "train": {"epochs": 1, **values}}
        return train.settings_of(
            SimpleNamespace(
                seed=0, **{name: SimpleNamespace(**section) for name, section in sections.items()}
            )
        )

    assert settings(report_to="mlflow") == settings() != settings(batch_size=2)
