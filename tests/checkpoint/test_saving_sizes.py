"""How large the files are that save_model writes: as asked, counted by a bar, and told in the report."""

import json

import numpy as np
import pytest
from saving import filled, rule_model

from convinit_ext import save_model
from convinit_ext.checkpoint import _writer as file_writer
from convinit_ext.checkpoint._layout import parsed_size
from convinit_ext.checkpoint._safetensors import open_weights

SIZES = {
    "5GB": 5 * 10**9,
    " 500 mb ": 5 * 10**8,
    "2GiB": 2 << 30,
    "1.5KB": 1500,
    "12": 12,
    7: 7,
    "1TB": 10**12,
}


def test_sizes():
    from huggingface_hub.serialization._base import parse_size_to_int

    for text, size in SIZES.items():
        assert parsed_size(text) == size
        if str(text).strip().upper().endswith("B") and "iB" not in str(text):
            assert parse_size_to_int(text) == size
    assert parsed_size(np.int64(7)) == 7
    for wrong in ("", "GB", "-1GB", "5 GX", "five", 0, -1, "0GB", "1e3", "0.1", 10**400, "9" * 308 + "TB"):
        with pytest.raises(ValueError, match="is no size"):
            parsed_size(wrong)
    for wrong in (1.5, True, None):
        with pytest.raises(TypeError, match="max_shard_size"):
            parsed_size(wrong)


@pytest.mark.parametrize("max_bytes", [1, 150, 168, 400, 1000, 10**6])
def test_files_are_split_as_huggingface_hub_splits_them(tmp_path, max_bytes):
    from huggingface_hub import split_torch_state_dict_into_shards

    model = rule_model()
    split = split_torch_state_dict_into_shards(
        model.state_dict(), filename_pattern="model{suffix}.safetensors", max_shard_size=max_bytes
    )
    report = save_model(model, tmp_path, max_shard_size=max_bytes)
    assert [file.name for file in report.files] == list(split.filename_to_tensors)
    for name, tensors in split.filename_to_tensors.items():
        assert open_weights(tmp_path / name).tensors.keys() == set(tensors)
    if split.is_sharded:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index == {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    opened = open_weights(tmp_path)
    assert opened.metadata.keys() == {"format", "seed", "recipe", "contract", "plan"}
    assert (opened.metadata["format"], opened.metadata["contract"]) == ("pt", "1")


def test_progress_counts_every_byte(tmp_path, monkeypatch):
    import tqdm.auto

    bars = []

    class Bar(tqdm.auto.tqdm):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    monkeypatch.setattr(file_writer, "BLOCK_BYTES", 64)
    report = save_model(rule_model(), tmp_path, max_shard_size=200, progress=True)
    (bar,) = bars
    assert bar.n == bar.total == report.num_bytes > 0


def test_the_report(tmp_path):
    report = save_model(rule_model(), tmp_path, max_shard_size=200)
    assert json.loads(json.dumps(report.to_dict()))["num_bytes"] == report.num_bytes
    assert report.num_bytes == sum(each.stat().st_size for each in tmp_path.glob("*.safetensors"))
    assert report.bytes_per_second > 0
    assert "model-00005-of-00005.safetensors" in str(report)
    assert [row.name for row in report.plan.rows] == list(rule_model().state_dict())


def test_one_file_is_no_larger_than_asked(tmp_path):
    num_bytes = sum(each.nbytes for each in filled(rule_model).values())
    with pytest.raises(ValueError, match=r"a.safetensors would be one file of .* more than max_shard_size"):
        save_model(rule_model(), tmp_path / "a.safetensors", max_shard_size=num_bytes - 1)
    assert not list(tmp_path.iterdir())
    save_model(rule_model(), tmp_path / "a.safetensors", max_shard_size=num_bytes)
