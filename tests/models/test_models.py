"""Contracts of every registered architecture, and the paper's shapes."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from flatscale.errors import ModelError
from flatscale.models import (
    MODELS,
    architecture_family,
    build_model,
    model,
    model_options,
)

SHAPES = [(1, 4, 4), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 33, 47)]
SMALL_TIMM = ["timm:resnet10t", "timm:vit_tiny_patch16_224", "timm:mixer_s32_224"]


def same_weights(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


OF_IMAGES = [name for name, entry in MODELS.items() if "image" in entry.takes]


@pytest.mark.parametrize("architecture", OF_IMAGES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_architecture_maps_images_of_every_size_to_outputs(
    architecture: str, shape: tuple[int, int, int]
) -> None:
    network = build_model(architecture, shape, 7, {}, seed=0)
    assert network.training
    assert network(torch.rand(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("architecture", OF_IMAGES)
def test_weights_follow_from_the_seed_and_leave_the_global_generator_alone(
    architecture: str,
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model(architecture, (1, 8, 8), 3, {}, seed=2**63 - 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert same_weights(first, build_model(architecture, (1, 8, 8), 3, {}, seed=2**63 - 1))
    assert not same_weights(first, build_model(architecture, (1, 8, 8), 3, {}, seed=1))


def test_threads_that_build_at_once_get_the_same_weights() -> None:
    reference = build_model("lenet", (1, 28, 28), 10, {}, seed=3)
    built: list[nn.Module] = []

    def build() -> None:
        built.extend(build_model("lenet", (1, 28, 28), 10, {}, seed=3) for _ in range(5))

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 20
    assert all(same_weights(reference, network) for network in built)


@pytest.mark.parametrize("architecture", OF_IMAGES)
def test_no_layer_overwrites_its_input(architecture: str) -> None:
    network = build_model(architecture, (1, 8, 8), 3, {}, seed=0)
    assert not any(getattr(module, "inplace", False) for module in network.modules())
    images = torch.rand(2, 1, 8, 8)
    copy = images.clone()
    network(images)
    assert torch.equal(images, copy)


def test_a_transformer_looks_back_only_and_weighs_its_tokens_as_written_out() -> None:
    options = {"width": 8, "heads": 2, "hidden": 16, "norm": False}
    network = build_model("transformer", (3, 5), 4, options, seed=0)
    tokens = torch.eye(5)[torch.tensor([[0, 4, 2], [1, 1, 3]])]
    block = network.blocks[0]
    x = network.embedding.weight.T[tokens.argmax(dim=2)] + network.position
    parts = (x @ block.attended.weight.T + block.attended.bias).split(8, dim=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        queries, keys, values = (part[..., head] for part in parts)
        scores = queries @ keys.transpose(1, 2) / 2 + torch.full((3, 3), -torch.inf).triu(1)
        heads.append(scores.softmax(dim=2) @ values)
    x = x + block.mixed(torch.cat(heads, dim=2))
    expected = network.head((x + block.layers(x))[:, -1])
    torch.testing.assert_close(network(tokens), expected)
    with pytest.raises(ModelError, match="width 8 must be a multiple of heads 3"):
        build_model("transformer", (3, 5), 4, {**options, "heads": 3}, seed=0)


@pytest.mark.parametrize("architecture", ["mlp", "lenet", "vgg11"])
def test_dropout_is_a_layer_after_each_hidden_one(architecture: str) -> None:
    plain = build_model(architecture, (1, 8, 8), 3, {}, seed=0)
    dropped = build_model(architecture, (1, 8, 8), 3, {"dropout": 0.5}, seed=0)
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(plain.eval()(x), dropped.eval()(x))
    assert not torch.equal(dropped.train()(x), dropped(x))
    count = sum(isinstance(layer, nn.Dropout) for layer in dropped)
    assert count == sum(isinstance(layer, nn.Linear) for layer in dropped) - 1


def test_mlp_is_the_papers() -> None:
    network = build_model("mlp", (3, 32, 32), 2, {}, seed=0)
    widths = [layer.out_features for layer in network if isinstance(layer, nn.Linear)]
    assert widths == [500, 500, 500, 2]
    assert sum(isinstance(layer, nn.Tanh) for layer in network) == 3
    linear = build_model("mlp", (3, 32, 32), 2, {"depth": 0}, seed=0)
    assert [type(layer) for layer in linear] == [nn.Flatten, nn.Linear]
    with_relu = build_model("mlp", (1, 8, 8), 2, {"activation": "relu", "width": 5}, seed=0)
    assert sum(isinstance(layer, nn.ReLU) for layer in with_relu) == 3


@pytest.mark.parametrize(("side", "features"), [(32, 400), (28, 400), (8, 64), (4, 16)])
def test_lenet_is_lenet_5_where_the_image_allows(side: int, features: int) -> None:
    network = build_model("lenet", (1, side, side), 10, {}, seed=0)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [6, 16]
    assert linear[0].in_features == features
    assert [layer.out_features for layer in linear] == [120, 84, 10]


def test_vgg11_is_the_papers() -> None:
    network = build_model("vgg11", (3, 32, 32), 2, {}, seed=0)
    convolutions = [layer for layer in network if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16, 16, 32, 64, 64]
    assert {(layer.kernel_size, layer.padding) for layer in convolutions} == {((3, 3), (2, 2))}
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [128, 2]
    assert not any("Norm" in type(layer).__name__ for layer in network)
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in network) == 5


@pytest.mark.parametrize("architecture", SMALL_TIMM)
def test_timm_networks_are_sized_to_the_data(architecture: str) -> None:
    network = build_model(architecture, (1, 32, 32), 5, {}, seed=0)
    assert same_weights(network, build_model(architecture, (1, 32, 32), 5, {}, seed=0))
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 5)


def test_families() -> None:
    assert architecture_family("mlp") == "mlp"
    assert architecture_family("lenet") == "lenet"
    assert architecture_family("vgg11") == "vgg"
    assert architecture_family("timm:resnet18") == "resnet"
    assert architecture_family("timm:vit_tiny_patch16_224") == "vision_transformer"


@pytest.mark.parametrize(
    ("architecture", "options", "fault"),
    [
        ("mpl", {}, "did you mean 'mlp'"),
        ("timm:resnet81", {}, "did you mean 'timm:resnet18'"),
        ("timm:resnet18.a1_in1k", {}, "without a pretraining tag"),
        ("mlp", {"widht": 3}, r"unknown option 'widht' \(did you mean 'width'\?\); allowed: width"),
        ("mlp", {"width": 0}, "greater than or equal to 1; found 0"),
        ("mlp", {"width": "wide"}, "'width': .*found 'wide'"),
        ("mlp", {"width": True}, "'width': .*found True"),
        ("mlp", {"activation": "elu"}, "'tanh' or 'relu'; found 'elu'"),
        ("vgg11", {"channels": ()}, "'channels'"),
        ("vgg11", {"channels": (8, -1)}, r"'channels\.1': .*found -1"),
        ("lenet", {"width_factor": float("inf")}, "'width_factor': .*found inf"),
        ("timm:resnet18", {"pretrained": True}, "'pretrained' .* cannot be set"),
        ("timm:resnet18", {"img_size": 3}, "'img_size' .* cannot be set"),
    ],
)
def test_a_wrong_name_or_option_is_refused(architecture: str, options: dict, fault: str) -> None:
    with pytest.raises(ModelError, match=fault):
        model_options(architecture, options)
    with pytest.raises(ModelError, match=fault):
        build_model(architecture, (1, 8, 8), 2, options, seed=0)


def test_options_timm_does_not_know_and_images_it_cannot_take_are_refused() -> None:
    with pytest.raises(ModelError, match=r"timm cannot build 'timm:resnet18'.*'foo'"):
        build_model("timm:resnet18", (3, 32, 32), 2, {"foo": 1}, seed=0)
    with pytest.raises(ModelError, match=r"'timm:levit_128s'.*\(3, 7, 7\)"):
        build_model("timm:levit_128s", (3, 7, 7), 2, {}, seed=0)


def test_a_list_is_taken_where_a_tuple_is_declared() -> None:
    of_list = build_model("vgg11", (1, 8, 8), 2, {"channels": [4, 4, 8]}, seed=0)
    assert same_weights(
        of_list, build_model("vgg11", (1, 8, 8), 2, {"channels": (4, 4, 8)}, seed=0)
    )
    assert [m.out_channels for m in of_list if isinstance(m, nn.Conv2d)] == [4, 4, 8]


def test_an_image_too_small_for_lenet_is_refused() -> None:
    with pytest.raises(ModelError, match="at least 4x4; found 3x8"):
        build_model("lenet", (1, 3, 8), 2, {}, seed=0)


def test_a_plugin_is_one_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS.items()))

    @model("pooled_linear", family="linear")
    def pooled_linear(
        input_shape: tuple[int, int, int], num_classes: int, *, bias: bool = True
    ) -> nn.Module:
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(input_shape[0] * 4, num_classes, bias)
        )

    assert architecture_family("pooled_linear") == "linear"
    network = build_model("pooled_linear", (3, 9, 9), 4, {"bias": False}, seed=0)
    assert network[2].bias is None
    with pytest.raises(ModelError, match="unknown option 'bia'"):
        model_options("pooled_linear", {"bia": False})


def test_a_plugin_with_outputs_of_another_shape_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MODELS, "_entries", dict(MODELS.items()))

    @model("unflattened")
    def unflattened(input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return nn.Conv2d(input_shape[0], num_classes, 1)

    with pytest.raises(ModelError, match=r"\(B, 4\); found \(1, 4, 5, 5\)"):
        build_model("unflattened", (3, 5, 5), 4, {}, seed=0)
