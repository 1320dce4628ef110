"""The bundle for a GPU machine: its parts come out whole, and the rung has the pipeline's keys."""

from types import SimpleNamespace

import pytest
from conftest import ROOT

from benchmarks import gpu
from onesentence.commands import edit
from onesentence.commands.preset import overlay_of
from onesentence.core.errors import UserError


def test_a_bundle_is_cut_into_parts_of_a_bounded_size_and_joined_again(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PART_BYTES", 1_000)
    bundle, contents = tmp_path / "bundle", {}
    for i, size in enumerate((0, 10, 3_500, 999, 1_001, 40)):
        contents[f"{'wheels' if i % 2 else 'articles'}/deep/file-{i}.bin"] = bytes([i]) * size
    (bundle / "bitsandbytes").mkdir(parents=True)
    for name, data in contents.items():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(data)
    gpu.cut(bundle, sorted(file for file in bundle.rglob("*") if file.is_file()))
    parts = sorted(bundle.iterdir())
    assert len(parts) > 4 and all(part.name.startswith("part-") for part in parts)
    for part in parts:
        assert sum(file.stat().st_size for file in part.rglob("*") if file.is_file()) <= 1_000
    gpu.join(bundle, tmp_path / "joined")
    found = {
        file.relative_to(tmp_path / "joined").as_posix(): file.read_bytes()
        for file in (tmp_path / "joined").rglob("*")
        if file.is_file()
    }
    assert found == contents


def test_another_bundle_does_not_run_with_the_files_of_the_first(tmp_path):
    for name in ("one", "other"):
        (tmp_path / name / "part-1").mkdir(parents=True)
        (tmp_path / name / "part-1/file.000").write_text(name)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/joined").write_text(gpu.bundle_hash(tmp_path / "one"))
    arguments = SimpleNamespace(work=tmp_path / "work")
    with pytest.raises(UserError, match="holds another bundle's files"):
        gpu.run(tmp_path / "other", arguments)


def test_the_rung_fits_the_parameters(monkeypatch):
    monkeypatch.chdir(ROOT)
    overlay = gpu.deep(overlay_of(gpu.PRESET), gpu.COMMON, {"evaluate": {"split": "test"}})
    old, new = edit.edited(overlay, "the rung")
    assert old != new and "models/smollm2-135m" in new and "batch_size: 16" in new
