"""Files of tensors: equal contents, equal bytes."""

import re
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

import cus
from cus.tensor_files import save_tensors

TENSORS = {"b": torch.arange(6).view(2, 3), "ä": torch.ones(1), "a": torch.zeros(0, 2, dtype=torch.uint8)}
METADATA = {f"key {number}": f'"value" {number} é' for number in range(8)}


def test_equal_contents_are_equal_byte_for_byte(tmp_path: Path) -> None:
    for number in range(4):
        save_tensors(TENSORS, tmp_path / f"{number}", METADATA)
    save_tensors(dict(reversed(TENSORS.items())), tmp_path / "4", dict(reversed(METADATA.items())))
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(5)}) == 1


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "a", METADATA)
    found = load_file(tmp_path / "a")
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    with safe_open(tmp_path / "a", framework="pt") as file:
        assert file.metadata() == METADATA


def test_others_may_read_them_as_they_may_any_new_file(tmp_path: Path) -> None:
    save_tensors(TENSORS, tmp_path / "a", METADATA)
    (tmp_path / "b").write_text("b")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_no_other_code_writes_metadata_in_random_order() -> None:
    package = Path(cus.__file__).parent
    found = [path.name for path in package.rglob("*.py") if re.search(r"\bsave_file\(", path.read_text("utf-8"))]
    assert not found
