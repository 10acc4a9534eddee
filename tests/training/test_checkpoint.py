"""Weights and checkpoints on disk and in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from flatscale.errors import ModelError, StoreError
from flatscale.training import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    weights_from_bytes,
    weights_to_bytes,
)


class Tied(nn.Module):
    """Two layers that share one weight, a view of a larger tensor, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 4)
        self.decoder = nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight
        self.register_buffer("slice", torch.arange(10.0)[2:5])
        self.register_buffer("count", torch.tensor(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


def channels_last() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    return model.to(memory_format=torch.channels_last)


def half() -> nn.Module:
    return nn.Linear(3, 2).to(torch.bfloat16)


BUILDERS = [Tied, channels_last, half, lambda: nn.Linear(0, 2)]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("through", ["file", "bytes"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_weights_survive_bit_for_bit(build, through: str, tmp_path: Path) -> None:
    model, other = build(), build()
    strides = [parameter.stride() for parameter in other.parameters()]
    if through == "file":
        save_weights(tmp_path / "w.safetensors", model, {"step": 3})
        assert load_weights(tmp_path / "w.safetensors", other) == {"step": 3}
    else:
        weights_from_bytes(weights_to_bytes(model), other)
    one, two = model.state_dict(), other.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [parameter.stride() for parameter in other.parameters()] == strides


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    model = Tied()
    save_weights(tmp_path / "w", Tied())
    load_weights(tmp_path / "w", model)
    assert model.encoder.weight is model.decoder.weight


def test_bytes_do_not_follow_the_network() -> None:
    model, copy = nn.Linear(3, 2), nn.Linear(3, 2)
    before = model.weight.detach().clone()
    content = weights_to_bytes(model)
    with torch.no_grad():
        model.weight.zero_()
    weights_from_bytes(content, copy)
    assert torch.equal(copy.weight, before)


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 200, b"not safetensors at all"])
def test_foreign_files_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "foreign.bin"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"cannot read .*foreign\.bin"):
        load_weights(path, nn.Linear(3, 2))
    with pytest.raises(StoreError, match="broken"):
        weights_from_bytes(content, nn.Linear(3, 2))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*nothing"):
        load_weights(tmp_path / "nothing", nn.Linear(3, 2))


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path, cut = tmp_path / "w", tmp_path / "cut"
    save_weights(path, nn.Linear(3, 2))
    content = path.read_bytes()
    for length in range(len(content)):
        cut.write_bytes(content[:length])
        with pytest.raises(StoreError, match="cut"):
            load_weights(cut, nn.Linear(3, 2))


@pytest.mark.parametrize("header", ["null", "[]", "{", '{"kind": "checkpoint"}', "[" * 100_000])
def test_other_safetensors_are_refused(header: str, tmp_path: Path) -> None:
    path = tmp_path / "other"
    safetensors.torch.save_file(nn.Linear(3, 2).state_dict(), path, {"flatscale": header})
    with pytest.raises(StoreError, match="other"):
        load_weights(path, nn.Linear(3, 2))
    safetensors.torch.save_file(nn.Linear(3, 2).state_dict(), path)
    with pytest.raises(StoreError, match="must be a flatscale weights file"):
        load_weights(path, nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("saved", "fault"),
    [
        (nn.Linear(3, 2, bias=False), "it has no 'bias'"),
        (nn.Sequential(nn.Linear(3, 2)), "it has no 'bias'"),
        (nn.Linear(4, 2), r"'weight' must be \(2, 3\) torch.float32, found \(2, 4\)"),
        (nn.Linear(3, 2).double(), r"found \(2, 3\) torch.float64"),
    ],
)
def test_weights_of_another_network_are_refused(
    saved: nn.Module, fault: str, tmp_path: Path
) -> None:
    save_weights(tmp_path / "w", saved)
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ModelError, match=fault):
        load_weights(tmp_path / "w", model)
    assert torch.equal(model.weight, before)


def test_an_unknown_tensor_is_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", nn.Linear(3, 2))
    with pytest.raises(ModelError, match="has no 'bias'"):
        load_weights(tmp_path / "w", nn.Linear(3, 2, bias=False))


def test_a_failed_write_leaves_the_old_file_and_names_it(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "w"
    save_weights(path, nn.Linear(3, 2))
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*/w: .*No space left"):
        save_weights(path, nn.Linear(3, 2))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w"]
    with pytest.raises(StoreError, match="cannot write"):
        save_weights(tmp_path / "no" / "folder", nn.Linear(3, 2))


def test_state_that_is_no_tensor_is_refused() -> None:
    class Odd(nn.Linear):
        def get_extra_state(self) -> str:
            return "odd"

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(ModelError, match="'_extra_state' is a str"):
        weights_to_bytes(Odd(3, 2))


def trained(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    return optimizer


def test_a_checkpoint_holds_network_optimizer_step_and_history(tmp_path: Path) -> None:
    model, other = Tied(), Tied()
    optimizer = trained(model)
    history = [(0, 1 / 3), (10, 1e-300)]
    save_checkpoint(tmp_path / "c", model, optimizer, 10, history)
    fresh = torch.optim.SGD(other.parameters(), lr=0.5)
    saved = load_checkpoint(tmp_path / "c", other, fresh)
    assert (saved.step, saved.history) == (10, tuple(history))
    assert fresh.param_groups[0]["lr"] == 0.1
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(first, second)
        buffers = [o.state[p]["momentum_buffer"] for o, p in ((optimizer, first), (fresh, second))]
        assert torch.equal(*buffers)


def test_weights_are_no_checkpoint_and_the_reverse(tmp_path: Path) -> None:
    model = Tied()
    save_weights(tmp_path / "w", model)
    save_checkpoint(tmp_path / "c", model, trained(model), 1, [])
    with pytest.raises(StoreError, match="must be a flatscale checkpoint file; found 'weights'"):
        load_checkpoint(tmp_path / "w", model, trained(model))
    with pytest.raises(StoreError, match="must be a flatscale weights file; found 'checkpoint'"):
        load_weights(tmp_path / "c", model)


@pytest.mark.parametrize(
    "damage",
    [
        {"step": None},
        {"history": 3},
        {"history": [[1]]},
        {"param_groups": []},
        {"param_groups": [{}]},
        {"constants": {"x": {}}},
        {"constants": 5},
        {"settings": 1},
    ],
)
def test_a_checkpoint_with_a_broken_header_is_refused(damage: dict, tmp_path: Path) -> None:
    model, path = Tied(), tmp_path / "c"
    save_checkpoint(path, model, trained(model), 1, [(0, 1.0)], settings={"seed": 1})
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["flatscale"])
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {"flatscale": json.dumps({**header, **damage})})
    with pytest.raises(StoreError, match=r"/c is not a checkpoint of SGD"):
        load_checkpoint(path, model, trained(model), settings={"seed": 1})
