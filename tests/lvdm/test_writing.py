"""The writer of safetensors against the library that defines the format."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cus.errors import InputError
from cus.lvdm.weight_files import DTYPE_NAMES, shards_of, write_network, write_safetensors


def assorted() -> dict[str, torch.Tensor]:
    """Tensors of every type and awkward shape."""
    torch.manual_seed(0)
    tensors = {str(dtype): (10 * torch.rand(3, 5)).to(dtype) for dtype in DTYPE_NAMES}
    return tensors | {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "transposed": torch.rand(4, 7).T,
        "channels last": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "window": torch.rand(100)[13:30],
        "expanded": torch.rand(1, 6).expand(4, 6),
        'odd "name" \u00e9': torch.rand(2),
    }


def test_the_library_reads_every_type_and_shape_back(tmp_path: Path) -> None:
    tensors, written = assorted(), []
    write_safetensors(tmp_path / "ours.safetensors", tensors, None, written.append)
    read = load_file(tmp_path / "ours.safetensors")
    assert read.keys() == tensors.keys()
    assert all(read[name].dtype == tensor.dtype and torch.equal(read[name], tensor) for name, tensor in tensors.items())
    assert written == [tensor.nbytes for tensor in tensors.values()]
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_file_is_as_large_as_the_library_s(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in assorted().items()}
    write_safetensors(tmp_path / "ours.safetensors", tensors, None, lambda _: None)
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("ours", "theirs")]
    assert abs(sizes[0] - sizes[1]) < 64


def test_only_real_numbers_change_their_type_and_named_ones_do_not(tmp_path: Path) -> None:
    tensors = {"weight": torch.rand(3), "table": torch.rand(3), "count": torch.arange(3)}
    write_safetensors(tmp_path / "t.safetensors", tensors, torch.bfloat16, lambda _: None, exact=["table"])
    read = load_file(tmp_path / "t.safetensors")
    assert [read[name].dtype for name in tensors] == [torch.bfloat16, torch.float32, torch.int64]
    assert torch.equal(read["weight"], tensors["weight"].bfloat16())


def test_shards_keep_the_order_and_the_limit_unless_a_tensor_is_larger(tmp_path: Path) -> None:
    tensors = {name: torch.rand(size) for name, size in (("a", 10), ("b", 10), ("c", 50), ("d", 5), ("e", 16))}
    shards = shards_of(tensors, torch.float16, 42)
    assert [list(shard) for shard in shards] == [["a", "b"], ["c"], ["d", "e"]]
    write_network(tmp_path, tensors, torch.float16, 42, lambda _: None)
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * 91
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], tensors[name].half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_largest_number_of_a_type_is_still_written_and_the_next_is_not(tmp_path: Path, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for value in (largest, -largest):
        write_safetensors(tmp_path / "t.safetensors", {"w": torch.tensor([value, 0.0])}, dtype, lambda _: None)
        assert float(load_file(tmp_path / "t.safetensors")["w"][0]) == value
    for value in (1.01 * largest, -1.01 * largest, float("nan")):
        with pytest.raises(InputError, match="w (reaches|has values)"):
            tensors = {"w": torch.tensor([0.0, value], dtype=torch.float64)}
            write_safetensors(tmp_path / "t.safetensors", tensors, dtype, lambda _: None)
