"""Files of weights: what the safetensors library writes is read; what is damaged or foreign is named."""

import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from convinit_ext import fingerprint, verify
from convinit_ext.checkpoint._safetensors import WeightsError, open_weights
from convinit_ext.model import DTYPES


def written(path, head, data=b"", length=None):
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(begin, end, dtype="I8", shape=None):
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_is_read_as_the_library_wrote_it(tmp_path, name):
    bits = torch.arange(48, dtype=torch.uint8)
    tensor = (bits % 2).bool() if name == "BOOL" else bits.view(DTYPES[name])
    save_file({"x": tensor.view(2, -1), "empty": tensor[:0]}, tmp_path / "a.safetensors")
    weights = open_weights(tmp_path / "a.safetensors")
    stored = weights.tensors["x"]
    assert stored.dtype == tensor.dtype
    assert stored.shape == (2, len(tensor) // 2)
    assert stored.view(torch.uint8).flatten().equal(tensor.view(torch.uint8))
    assert not weights.tensors["empty"].numel()


def test_the_library_knows_no_other_dtype():
    from safetensors.torch import _TYPES

    assert set(_TYPES) <= set(DTYPES)


def test_metadata_scalars_and_empty_tensors_anywhere(tmp_path):
    head = {"__metadata__": {"format": "pt"}, "a": entry(0, 1, shape=[]), "b": entry(1, 1), "c": entry(1, 2)}
    weights = open_weights(written(tmp_path / "a.safetensors", head, b"12"))
    assert list(weights.tensors) == ["a", "b", "c"]
    assert weights.tensors["a"].shape == ()
    assert weights.metadata == {"format": "pt"}
    assert open_weights(str(written(tmp_path / "none.safetensors", {}))).tensors == {}


# What the format's library says, in words that change with its version.
LIBRARY = "not a whole safetensors file, at [0-9]+ bytes: .*"

WRONG_HEADS = {
    "array": ([], "must be an object"),
    "cut JSON": (b'{"x": ', "no JSON"),
    "not UTF-8": (b'{"\xff": 1}', "no JSON"),
    "half a surrogate pair": (rb'{"\ud800": 1}', "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "twice": (b'{"x": {}, "x": {}}', "'x' is there twice"),
    "no entry": ({"x": 1}, LIBRARY),
    "no shape": ({"x": {"dtype": "I8", "data_offsets": [0, 1]}}, LIBRARY),
    "dtype": ({"x": entry(0, 1, "F6_E2M3")}, LIBRARY),
    "dtype of no kind": ({"x": entry(0, 1, [])}, LIBRARY),
    "shape": ({"x": entry(0, 1, shape=[-1, -1])}, LIBRARY),
    "fraction": ({"x": entry(0, 1, shape=[1.0])}, LIBRARY),
    "true": ({"x": entry(0, 1, shape=[True])}, LIBRARY),
    "offsets": ({"x": entry(0, 1) | {"data_offsets": [0]}}, LIBRARY),
    "shape of many sizes": ({"x": entry(0, 1, shape=[2**63 - 1] * 200_000)}, LIBRARY),
    "shape of many sizes, and zero": ({"x": entry(0, 1, shape=[2**63 - 1] * 200_000 + [0])}, LIBRARY),
    "backwards": ({"x": entry(0, 1) | {"data_offsets": [1, 0]}}, LIBRARY),
    "size": ({"x": entry(0, 1, "F32", [1])}, LIBRARY),
    "odd pairs": ({"x": entry(0, 1, "F4", [3])}, LIBRARY),
    "gap at the start": ({"x": entry(1, 2)}, LIBRARY),
    "gap": ({"x": entry(0, 1), "y": entry(2, 3)}, LIBRARY),
    "overlap": ({"x": entry(0, 2), "y": entry(1, 3)}, LIBRARY),
    "metadata": ({"__metadata__": {"a": 1}}, LIBRARY),
    "metadata list": ({"__metadata__": []}, LIBRARY),
}


@pytest.mark.parametrize(("head", "message"), WRONG_HEADS.values(), ids=WRONG_HEADS)
def test_wrong_heads(tmp_path, head, message):
    path = written(tmp_path / "a.safetensors", head, b"123")
    with pytest.raises(WeightsError, match=message) as raised:
        open_weights(path)
    assert str(path) in str(raised.value)


FOREIGN = {
    "empty": (b"", "it is empty"),
    "few bytes": (b"abc", "it starts with b'abc'"),
    "zip": (b"PK\x03\x04" + b"\0" * 90, "zip archive"),
    "pickle": (pickle.dumps(list(range(50)), 4), "pickle"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
    "html": (b"<!DOCTYPE html>" * 9, "HTML"),
    "json": (b'{"weight_map": {}}', "an index is named"),
    "text": (b"hello, this is text", "it starts with b'hello, t'"),
    "gguf": (b"GGUF" + b"\xff" * 90, "GGUF"),
    "huge head": ((10**8 + 1).to_bytes(8, "little") + b"{}", "a head of"),
    "no head": ((1).to_bytes(8, "little") + b"{", "a head of"),
    "head cut short": ((50).to_bytes(8, "little") + b"{}", "a head of 50 bytes, and has 10 bytes"),
}


@pytest.mark.parametrize(("data", "message"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_files(tmp_path, data, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        open_weights(path)


@pytest.mark.parametrize("change", [-1, -40, 1])
def test_a_file_that_was_cut_short_or_has_more(tmp_path, change):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(10)}, path)
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(WeightsError, match=LIBRARY):
        open_weights(path)


def test_a_file_that_became_shorter_before_it_is_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    weights = open_weights(path)
    weights.check_sizes()
    os.truncate(path, 600)
    with pytest.raises(WeightsError, match="became shorter"):
        weights.check_sizes()
    path.unlink()
    with pytest.raises(WeightsError, match="became shorter"):
        weights.check_sizes()


def test_names_that_are_one_name_to_readers(tmp_path):
    head = {"module.x": entry(0, 1), "x": entry(1, 2)}
    path = written(tmp_path / "a.safetensors", head, b"12")
    said = r"a.safetensors: two tensors are named 'x' once wrappers are removed: 'module.x' and 'x'"
    for read in (open_weights, fingerprint, lambda path: verify(path, model=torch.nn.Linear(1, 1))):
        with pytest.raises(WeightsError, match=said):
            read(path)


def test_errors_are_short(tmp_path):
    """Whatever a file says."""
    name = "x" * 10**6
    twice = b'{"' + name.encode() + b'": 1, "' + name.encode() + b'": 1}'
    for head in (twice, {name: 1}, {name: entry(0, 1), f"module.{name}": entry(1, 2)}):
        with pytest.raises(WeightsError) as raised:
            open_weights(written(tmp_path / "a.safetensors", head, b"12"))
        assert len(str(raised.value)) < 1500
    (tmp_path / "a.safetensors.index.json").write_text(json.dumps({"weight_map": {name: f"../{name}"}}))
    with pytest.raises(WeightsError, match="accepted are files of the same folder") as raised:
        open_weights(tmp_path / "a.safetensors.index.json")
    assert len(str(raised.value)) < 1500
    path = written(tmp_path / "a.safetensors", {"weight": entry(0, 1, shape=[1] * 10_000)}, b"1")
    assert len(str(verify(path, model=torch.nn.Linear(1, 1)))) < 3000


def test_what_is_no_file(tmp_path):
    with pytest.raises(WeightsError, match="no such file"):
        open_weights(tmp_path / "a.safetensors")
    os.mkfifo(tmp_path / "pipe")
    for name in ("model.safetensors", "model.safetensors.index.json"):
        folder = tmp_path / f"with {name}"
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(WeightsError, match=f"{name}: must be a file$"):
            fingerprint(folder)
    with pytest.raises(WeightsError, match="must be a file or a folder"):
        open_weights(tmp_path / "pipe")


TENSORS = {"a": torch.zeros(3), "b": torch.ones(2, 2), "mask": torch.ones(8, dtype=torch.bool)}
FILES = {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}
FILES["mask"] = FILES["b"]


def sharded(folder, weight_map=FILES, index="model.safetensors.index.json", metadata=(None, None), **more):
    folder.mkdir(exist_ok=True)
    for file, said in zip(sorted(set(FILES.values())), metadata, strict=True):
        save_file({name: TENSORS[name] for name in TENSORS if FILES[name] == file}, folder / file, said)
    (folder / index).write_text(json.dumps({"weight_map": weight_map} | more))
    return folder / index


def test_no_path_is_not_the_current_folder(tmp_path, monkeypatch):
    save_file(TENSORS, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert open_weights(".").tensors
    with pytest.raises(WeightsError, match="the path is empty"):
        open_weights("")


def test_an_index(tmp_path):
    for path in (
        sharded(tmp_path, metadata=({"format": "pt", "n": "1"}, {"format": "pt", "n": "2"})),
        tmp_path,
    ):
        weights = open_weights(path)
        assert sorted(weights.tensors) == sorted(TENSORS)
        assert weights.tensors["b"].equal(TENSORS["b"])
        assert weights.metadata == {"format": "pt"}
        assert weights.paths == tuple(tmp_path / each for each in sorted(set(FILES.values())))


def test_total_size_as_it_is_found_in_the_wild(tmp_path):
    num_bytes = 12 + 16 + 8
    on_disk = sum((sharded(tmp_path).parent / each).stat().st_size for each in set(FILES.values()))
    of_a_larger_storage = 4 * num_bytes
    for total in (num_bytes, float(num_bytes), num_bytes - 8 + 1, on_disk, of_a_larger_storage):
        open_weights(with_total(tmp_path, {"total_size": total, "total_parameters": 15}))


def test_total_size_of_our_own_files_is_exact(tmp_path):
    said = {"plan": "0"}
    assert open_weights(sharded(tmp_path, metadata=(said, said))).metadata == said
    for total in (35, 37):
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": FILES}))
        with pytest.raises(WeightsError, match=f"its total_size is {total}, and its tensors take 36 bytes"):
            open_weights(index)


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "unet.safetensors.index.bf16.json"])
def test_an_index_of_a_variant(tmp_path, name):
    assert sorted(open_weights(sharded(tmp_path, index=name)).tensors) == sorted(TENSORS)
    assert sorted(open_weights(tmp_path).tensors) == sorted(TENSORS)


def test_names_that_are_too_long(tmp_path):
    with pytest.raises(WeightsError, match="too long"):
        open_weights(tmp_path / ("x" * 5000))
    with pytest.raises(WeightsError, match="too long"):
        open_weights(sharded(tmp_path, FILES | {"a": "x" * 300}))


def test_sizes_that_no_tensor_has(tmp_path):
    head = json.dumps({"a": {"dtype": "F32", "shape": [2**70, 0], "data_offsets": [0, 0]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    with pytest.raises(WeightsError, match=LIBRARY):
        open_weights(tmp_path / "x.safetensors")


def with_total(folder, metadata):
    index = sharded(folder)
    index.write_text(json.dumps({"metadata": metadata, "weight_map": FILES}))
    return index


@pytest.mark.parametrize("metadata", [{"total_size": 35}, {"total_size": "36"}, [36]])
def test_a_total_that_disagrees(tmp_path, metadata):
    with pytest.raises(WeightsError, match=r"index\.json: its (total_size|metadata)"):
        open_weights(with_total(tmp_path, metadata))


@pytest.mark.parametrize(
    "file",
    ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..", ".", "", "a\\b", "a\0b", "C:a", 3],
)
def test_an_index_never_leaves_its_folder(tmp_path, file):
    save_file(TENSORS, tmp_path / "x.safetensors")
    index = sharded(tmp_path / "inside", FILES | {"a": file})
    with pytest.raises(WeightsError, match="tensor 'a' is said to be in"):
        open_weights(index)


def test_an_index_that_disagrees_with_its_files(tmp_path):
    lacking = {name: file for name, file in FILES.items() if name != "mask"}
    cases = {
        "tensor 'mask' is nowhere; it is in m-00002": lacking,
        "tensor 'a' is in m-00002-of-00002.safetensors; it is in m-00001": FILES
        | {"a": FILES["b"], "c": FILES["a"]},
        "holds c, and it does not": FILES | {"c": FILES["a"]},
        "lacks gone.safetensors": FILES | {"c": "gone.safetensors"},
        "must have a weight_map": [],
        "that is not empty": {},
    }
    for message, weight_map in cases.items():
        with pytest.raises(WeightsError, match=message):
            open_weights(sharded(tmp_path, weight_map))
    index = sharded(tmp_path)
    (tmp_path / FILES["a"]).unlink()
    with pytest.raises(WeightsError, match=f"lacks {FILES['a']}"):
        open_weights(index)
    index.write_text("no JSON")
    with pytest.raises(WeightsError, match="no JSON"):
        open_weights(index)


def test_files_of_different_runs(tmp_path):
    index = sharded(tmp_path, metadata=({"seed": "1", "contract": "1"}, {"seed": "2", "contract": "1"}))
    with pytest.raises(WeightsError, match=r"different runs: seed is '1' in m-00001.* and '2' in m-00002"):
        open_weights(index)


def test_folders(tmp_path):
    def folder(*names):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.mkdir()
        for name in names:
            save_file(TENSORS, path / name)
        return path

    usual = folder("model.safetensors", "consolidated.safetensors", "._model.safetensors")
    assert open_weights(usual).paths == (usual / "model.safetensors",)
    other = folder("whatever.safetensors", "config.json")
    assert open_weights(other).paths == (other / "whatever.safetensors",)
    for wrong, message in (
        (folder(), "holds no safetensors file; there is nothing"),
        (folder("config.json"), "there is config.json"),
        (
            folder("a.safetensors", "b.safetensors"),
            "more than one set of weights: a.safetensors, b.safetensors",
        ),
        (folder("model.safetensors", "diffusion_pytorch_model.safetensors"), "more than one set"),
        (folder("model-00001-of-00002.safetensors"), "shards without their index"),
        (folder(".model.safetensors"), "holds no safetensors file"),
    ):
        with pytest.raises(WeightsError, match=message) as raised:
            open_weights(wrong)
        assert str(wrong) in str(raised.value)


def test_unknown_contracts(tmp_path):
    for version in ("2", "x", ""):
        save_file({}, tmp_path / "a.safetensors", {"contract": version})
        with pytest.raises(WeightsError, match=f"a.safetensors.* version '{version}'.* knows 1"):
            open_weights(tmp_path / "a.safetensors").check_contract()
    for known in ({"contract": "1"}, None):
        save_file({}, tmp_path / "a.safetensors", known)
        open_weights(tmp_path / "a.safetensors").check_contract()
