"""Zoos: what each reader finds, which weights are loaded, which results are joined, by whose id."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from flatscale.errors import ConfigError, ModelError
from flatscale.models import build_model
from flatscale.models.pytorch_image_models import timm_module
from flatscale.models.zoo import (
    ZOO_READERS,
    ZooEntry,
    load_pretrained,
    memory_bytes,
    network_size,
    points_at_once,
    read_zoo,
    zoo_reader,
)
from flatscale.models.zoo.weights import file_weights, read_tensors
from flatscale.report.content.from_store import usable_trials
from flatscale.store.results import Store
from flatscale.study.plan import TrialSpec, plan
from flatscale.study.pretrained import WeightsConfig
from flatscale.study.reading import load_config, parse_config
from flatscale.study.schema import StudyConfig
from flatscale.training import save_weights
from tests.conftest import SHARED
from tests.records_by_hand import record
from tests.records_by_hand import study as hand_made_study

SMALL = "timm:test_vit"


def study(zoo: dict[str, Any], **parts: Any) -> StudyConfig:
    return parse_config({"name": "zoo", "models": {"zoo": zoo}, **parts})


def specs(zoo: dict[str, Any], **parts: Any) -> list[TrialSpec]:
    return plan(read_zoo(study(zoo, **parts)).study)


def save(path: Path, model: nn.Module) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(model.state_dict(), path)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    return path


def one_entry(zoo: dict[str, Any], name: str, **parts: Any) -> TrialSpec:
    return next(spec for spec in specs(zoo, **parts) if spec.name == name)


def test_timms_registry_by_pattern_says_who_is_skipped_and_why() -> None:
    zoo = {
        "source": "timm",
        "match": ["mobilevit*", "vit_tiny_patch16_384*", "vit_tiny_patch16_224*"],
        "exclude": ["*.cvnets_in22k*"],
        "max_input_size": 256,
        "families": {"mobilevitv2_*": "second"},
    }
    read = read_zoo(study(zoo))
    models = {m.name: m for m in read.study.models}
    assert models["mobilevit_s.cvnets_in1k"].family == "mobilevit"
    assert models["mobilevitv2_050.cvnets_in1k"].family == "second"
    tiny = models["vit_tiny_patch16_224.augreg_in21k_ft_in1k"]
    assert (tiny.architecture, tiny.family) == ("timm:vit_tiny_patch16_224", "vision_transformer")
    assert tiny.weights == WeightsConfig(
        source="hub",
        location="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        tag="augreg_in21k_ft_in1k",
    )
    assert tiny.preprocessing is not None
    assert (tiny.preprocessing.crop_pct, tiny.preprocessing.mean) == (0.9, (0.5, 0.5, 0.5))
    why = {entry.name: entry.skipped or "" for entry in read.skipped}
    assert "images of 384" in why["vit_tiny_patch16_384.augreg_in21k_ft_in1k"]
    assert "21843 outputs" in why["vit_tiny_patch16_224.augreg_in21k"]
    assert all(m.family for m in read.study.models)
    # What is stored of a zoo is an ordinary study: read again, it is the same trials.
    again = parse_config(read.study.shown())
    assert [s.trial_id for s in plan(again)] == [s.trial_id for s in plan(read.study)]
    assert read_zoo(again).study == again


def test_without_weights_there_is_one_network_an_architecture() -> None:
    found = specs({"source": "timm", "match": ["vit_tiny_patch16_224"], "weights": "none"})
    assert [spec.name for spec in found] == ["vit_tiny_patch16_224"]


def test_an_id_follows_from_architecture_tag_and_content_not_from_the_place(tmp_path: Path) -> None:
    model = build_model(SMALL, (3, 160, 160), 1000, {}, seed=1)
    for folder in ("here", "there"):
        save(tmp_path / folder / "test_vit.r160_in1k.safetensors", model)
    other = build_model(SMALL, (3, 160, 160), 1000, {}, seed=2)
    save(tmp_path / "changed" / "test_vit.r160_in1k.safetensors", other)
    here, there, changed, absent = (
        one_entry(
            {"source": "timm", "match": ["test_vit.*"], "weights": str(folder)},
            "test_vit.r160_in1k",
        )
        for folder in [tmp_path / n for n in ("here", "there", "changed")] + [tmp_path]
    )
    assert here.trial_id == there.trial_id
    assert len({here.trial_id, changed.trial_id, absent.trial_id}) == 3
    named = here.model_copy(update={"name": "x", "outcomes": {"top1": 1.0}})
    assert TrialSpec.model_validate(named.model_dump()).trial_id == here.trial_id


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_of_a_file_are_loaded_with_their_hash(tmp_path: Path, ending: str) -> None:
    source = build_model(SMALL, (3, 160, 160), 10, {}, seed=1)
    weights = file_weights(save(tmp_path / f"w.{ending}", source), "mine")
    target = build_model(SMALL, (3, 160, 160), 10, {}, seed=2)
    assert load_pretrained(target, SMALL, weights) == weights.content_hash
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name])
    stale = weights.model_copy(update={"content_hash": "0" * 16})
    with pytest.raises(ModelError, match="other weights than when the study was planned"):
        load_pretrained(target, SMALL, stale)
    with pytest.raises(ModelError, match=r"'head.\w+' must be \(7,.*found \(10,"):
        load_pretrained(build_model(SMALL, (3, 160, 160), 7, {}, seed=0), SMALL, weights)


def test_weights_under_an_original_releases_names_are_converted_by_timm(tmp_path: Path) -> None:
    name = "timm:swin_tiny_patch4_window7_224"
    options = {"embed_dim": 12, "depths": (1, 1), "num_heads": (1, 2)}
    model = build_model(name, (3, 224, 224), 4, options, seed=3)
    # Swin's own release keeps its index tables as buffers, and names the head otherwise.
    renamed = {"head.fc.": "head.", "layers.1.downsample": "layers.0.downsample"}
    release = {}
    for key, tensor in model.state_dict().items():
        new = next((key.replace(a, b) for a, b in renamed.items() if a in key), key)
        release[new] = tensor
    release["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    torch.save({"model": release}, tmp_path / "swin.pth")
    target = build_model(name, (3, 224, 224), 4, options, seed=4)
    load_pretrained(target, name, file_weights(tmp_path / "swin.pth", "release"))
    key = "layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(model.state_dict()[key], target.state_dict()[key])


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"state_dict": Harm()}, tmp_path / "bad.pth")
    with pytest.raises(ModelError, match=r"bad\.pth cannot be read as weights"):
        read_tensors(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


def test_absent_weights_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(SMALL, (3, 160, 160), 10, {}, seed=1)
    with pytest.raises(ModelError, match="no weights at"):
        load_pretrained(model, SMALL, file_weights(tmp_path / "none.pth", "x"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("flatscale.models.zoo.weights._reachable", lambda host: False)
    hub = WeightsConfig(source="hub", location="timm/no_such_model.here", tag="here")
    with pytest.raises(ModelError, match="neither in the local cache nor can they be fetched"):
        load_pretrained(model, SMALL, hub)


def test_a_folder_of_checkpoints_with_one_table(tmp_path: Path) -> None:
    save(tmp_path / "a" / "one.safetensors", build_model("mlp", (1, 8, 8), 3, {"width": 5}, seed=1))
    save(tmp_path / "two.pth", build_model("lenet", (1, 8, 8), 3, {}, seed=1))
    with (tmp_path / "zoo.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "architecture", "options", "family", "test_top1", "note"])
        table.writerow(["a/one.safetensors", "mlp", '{"width": 5}', "", 0.5, "text"])
        table.writerow(["two.pth", "lenet", "", "convolutional", "", "text"])
    one, two = specs({"source": "folder", "path": str(tmp_path)})
    assert (one.name, one.options, one.family, one.outcomes) == (
        "a/one",
        {"width": 5},
        "mlp",
        {"test_top1": 0.5},
    )
    assert (two.name, two.family, two.outcomes) == ("two", "convolutional", {})
    assert one.weights is not None
    assert load_pretrained(
        build_model("mlp", (1, 8, 8), 3, one.options, seed=0), "mlp", one.weights
    )


def test_the_networks_that_a_study_kept_are_a_zoo(tmp_path: Path) -> None:
    config = hand_made_study(num_seeds=1, keep_checkpoints=True)
    store = Store(tmp_path)
    store.prepare(config)
    first, *others = plan(config)
    for spec in (first, *others):
        store.write(record(spec))
    model = build_model(first.architecture, (1, 8, 8), 10, first.options, seed=1)
    save_weights(store.weights_file(first.network_id), model)
    store.export(store.read())
    (kept,) = specs({"source": "folder", "path": str(store.checkpoints)})
    assert kept.outcomes == {"mls": 101.0, "sharpness": 100 + 10 * first.learning_rate}
    assert (kept.architecture, kept.options) == (first.architecture, first.options)
    built = build_model(kept.architecture, (1, 8, 8), 10, kept.options, seed=2)
    assert kept.weights is not None
    load_pretrained(built, kept.architecture, kept.weights)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, built.state_dict()[key])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("path,architekture\nx,mlp\n", r"column 'architecture' \(did you mean 'architekture'\?\)"),
        ("path,architecture,options\nx,mlp,{\n", "row 1, options: must be JSON"),
        ("path,architecture\n,mlp\n", "row 1: path must be a text"),
    ],
)
def test_a_wrong_table_is_named_by_row_and_column(tmp_path: Path, table: str, said: str) -> None:
    (tmp_path / "zoo.csv").write_text(table)
    with pytest.raises(ModelError, match=said):
        specs({"source": "folder", "path": str(tmp_path)})


def test_hugging_face_folders_as_timm_writes_them(tmp_path: Path) -> None:
    timm = timm_module()
    from timm.models import save_for_hf

    model = timm.create_model("test_vit", num_classes=5, img_size=64)
    save_for_hf(model, tmp_path / "mine", model_args={"img_size": 64}, safe_serialization=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"architectures": ["ViTModel"]}))
    read = read_zoo(study({"source": "huggingface", "path": str(tmp_path)}))
    assert [entry.name for entry in read.skipped] == ["other"]
    (spec,) = plan(read.study)
    assert (spec.name, spec.architecture, spec.family) == ("mine", SMALL, "vision_transformer")
    assert spec.weights is not None
    assert spec.preprocessing is not None
    built = build_model(SMALL, spec.preprocessing.input_size, 5, spec.options, seed=0)
    load_pretrained(built, SMALL, spec.weights)
    x = torch.rand(2, *spec.preprocessing.input_size)
    assert torch.equal(built.eval()(x), model.eval()(x))


@pytest.mark.parametrize(("kind", "side"), [("CNN", 28), ("CNN2", 28), ("CNN3", 32)])
def test_model_zoo_datasets_layout(tmp_path: Path, kind: str, side: int) -> None:
    network = build_model("modelzoo_cnn", (3, side, side), 10, {"kind": kind}, seed=1)
    folder = tmp_path / "NN_tune_trainable_0"
    settings = {"model::type": kind, "model::nlin": "tanh", "model::dropout": 0.0, "optim::lr": 0.1}
    results = [{"training_iteration": e, "test_acc": e / 10, "pid": 7} for e in (1, 2)]
    for epoch in (1, 2):
        checkpoint = folder / f"checkpoint_{epoch:06d}"
        checkpoint.mkdir(parents=True)
        torch.save(network.state_dict(), checkpoint / "checkpoints")
    (folder / "params.json").write_text(json.dumps(settings))
    (folder / "result.json").write_text("\n".join(map(json.dumps, results)))
    (spec,) = specs({"source": "modelzoo", "path": str(tmp_path)})
    assert spec.outcomes == {"test_acc": 0.2}
    assert spec.options == {"kind": kind, "nlin": "tanh", "dropout": 0.0}
    assert spec.weights is not None
    assert spec.weights.tag == "epoch 2"
    built = build_model(spec.architecture, (3, side, side), 10, spec.options, seed=2)
    assert load_pretrained(built, spec.architecture, spec.weights) == spec.weights.content_hash
    (first,) = specs({"source": "modelzoo", "path": str(tmp_path), "epoch": 1})
    assert first.outcomes == {"test_acc": 0.1}


def test_the_parameters_of_model_zoo_datasets_networks_are_its_own() -> None:
    """2,464, 2,864 and 10,853 parameters for MNIST and CIFAR-10: Schürholt et al. 2022, Table 1."""
    for kind, shape, count in [("CNN", (1, 28, 28), 2464), ("CNN3", (3, 32, 32), 10853)]:
        network = build_model("modelzoo_cnn", shape, 10, {"kind": kind}, seed=0)
        assert sum(p.numel() for p in network.parameters()) == count


def test_published_results_are_joined_by_name_and_size(tmp_path: Path) -> None:
    pl.DataFrame(
        {
            "model": ["test_vit", "test_vit", "other", "test_vit2", "test_vit2"],
            "img_size": [160, 224, 160, 160, 160],
            "top1": ["1,000.5", "2", "3", "4", "5"],
        }
    ).write_csv(tmp_path / "results.csv")
    zoo = {"source": "timm", "match": ["test_vit", "test_vit2"], "weights": "none"}
    table = {"table": str(tmp_path / "results.csv"), "columns": {"top1": "imagenet"}}
    read = read_zoo(study(zoo, outcomes=[table]))
    assert {m.name: m.outcomes for m in read.study.models} == {
        "test_vit": {"imagenet": 1000.5},
        "test_vit2": {},
    }
    assert "2 of 2 networks have a row; 1 have several" in read.notes[0]
    with pytest.raises(ConfigError, match=r"outcomes: .*must have a column 'top2'"):
        read_zoo(study(zoo, outcomes=[{**table, "columns": {"top2": "x"}}]))


@pytest.mark.skipif(not (SHARED / "timm_results").is_dir(), reason="timm's results are not here")
def test_timms_own_results_belong_to_most_of_its_networks() -> None:
    table = str(SHARED / "timm_results" / "results-imagenet.csv")
    zoo = {"source": "timm", "match": ["fastvit*"], "max_input_size": 384}
    read = read_zoo(study(zoo, outcomes=[{"table": table, "columns": {"top1": "top1"}}]))
    found = {m.name: m.outcomes.get("top1") for m in read.study.models}
    assert found["fastvit_t8.apple_in1k"] == pytest.approx(76.2, abs=1)
    assert all(value is not None for value in found.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"models": {"zoo": {"source": "tim"}}}, r"unknown zoo reader 'tim' \(did you mean 'timm'"),
        ({"models": {"zoo": {"mach": ["*"]}}}, r"models.zoo: unknown option 'mach' \(did you mean"),
        ({"models": {"zoo": {"max_input_size": 0}}}, "'max_input_size'.*found 0"),
        ({"models": {"zoo": {"match": ["no_such_*"]}}}, r"models\.zoo\.match: no network"),
        ({"models": {"zo": {}}}, r"must be a list of networks, or \{zoo"),
        (
            {"models": {"zoo": {"match": ["vit_tiny*"], "max_input_size": 9}}},
            "no network to measure; all .* skipped, such as vit_tiny",
        ),
        ({"models": {"zoo": {"source": "folder"}}}, "'path' is required|path"),
        (
            {"models": [{"architecture": "mlp"}], "design": {"kind": "none"}},
            "design: kind must be none where models have weights",
        ),
        (
            {
                "models": [{"architecture": "mlp", "design": {"kind": "none"}}],
                "design": {"learning_rate": [0.1], "batch_size": [8]},
            },
            "design: kind must be none where models have weights",
        ),
        (
            {
                "models": {"zoo": {"weights": "none"}},
                "design": {"axes": {"training.learning_rate": [0.1]}},
            },
            "design: kind must be none where models have weights",
        ),
        (
            {
                "models": [{"architecture": "mlp"}],
                "design": {"axes": {"model.weights": [{"source": "none"}]}},
            },
            "model.weights: can be no axis: networks with weights are listed under models",
        ),
    ],
)
def test_a_wrong_zoo_is_one_message(content: dict[str, Any], said: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=said):
        read_zoo(parse_config({"name": "zoo", **content}))


def test_a_reader_is_one_decorated_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZOO_READERS, "_entries", dict(ZOO_READERS.items()))

    @zoo_reader("mine")
    def mine(*, widths: tuple[int, ...] = (3,)) -> Any:
        for width in widths:
            none = WeightsConfig(source="none")
            options = {"width": width}
            yield ZooEntry(name=f"w{width}", architecture="mlp", options=options, weights=none)

    found = specs({"source": "mine", "widths": [3, 4]})
    assert [(s.name, s.options["width"], s.family) for s in found] == [
        ("w3", 3, "mlp"),
        ("w4", 4, "mlp"),
    ]


class _Operations(TorchDispatchMode):
    """The names of what torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


def test_sizes_are_counted_without_storage_and_without_initial_weights() -> None:
    size = network_size("mlp", (1, 8, 8), 10, {"width": 20, "depth": 1})
    assert size.num_parameters == 64 * 20 + 20 + 20 * 10 + 10
    assert size.activation_bytes == 4 * (64 + 20 + 20 + 10)
    with _Operations() as run:
        tiny = network_size("timm:vit_tiny_patch16_224", (3, 224, 224), 1000, {})
    assert "aten.addmm.default" in run.names
    assert not {name for name in run.names if "uniform_" in name or "normal_" in name}
    assert tiny.num_parameters == 5_717_416
    assert memory_bytes(tiny, 100, (3, 224, 224)) > memory_bytes(tiny, 2, (3, 224, 224))
    assert points_at_once(tiny) > 1


def test_the_testbeds_names_are_timms_by_rules_that_both_tables_top_1_confirms() -> None:
    folder = SHARED / "published"
    if not folder.is_dir():
        pytest.skip("needs published tables")
    config = load_config(Path("configs/zoo_imagenet.yaml"), ())
    rules = config.outcomes[-1]
    testbed = pl.read_csv(folder / "imagenet_testbed_top1.csv").select(
        pl.col("model").map_elements(rules.name_here, pl.String).alias("here"), "model", "val"
    )
    timms = pl.read_csv(SHARED / "timm_results" / "results-imagenet.csv")
    top1 = timms.group_by("model").agg(pl.col("top1").first())
    both = testbed.join(top1, left_on="here", right_on="model")
    assert both.height >= 80
    assert (both["val"] - both["top1"]).abs().max() < 0.9
    assert both.height == both["here"].n_unique()


def test_a_rule_of_names_that_is_none_is_refused() -> None:
    table = {"table": "t.csv", "columns": {"a": "b"}}
    for rule, said in (({"(": "x"}, "unterminated"), ({"a": r"\1"}, "invalid group reference")):
        with pytest.raises(ConfigError, match=f"outcomes.*{said}"):
            study({"source": "timm"}, outcomes=[{**table, "names": rule}])


def test_threads_that_need_timm_at_once_import_it_once() -> None:
    """A network is built while its images are prepared; each begins with another module."""
    script = """
import threading
from flatscale.data.encoded import _transform
from flatscale.models import build_model
from flatscale.study.pretrained import Preprocessing
failed = []
def run(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except BaseException as error:
        failed.append(error)
network = ("timm:test_vit", (3, 32, 32), 2, {})
jobs = [
    threading.Thread(target=run, args=(_transform, Preprocessing(input_size=(3, 8, 8)))),
    threading.Thread(target=run, args=(build_model, *network), kwargs={"seed": 0}),
]
for job in jobs:
    job.start()
for job in jobs:
    job.join()
assert not failed, failed
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_zoos_networks_are_levels_of_no_hyperparameter(tmp_path: Path) -> None:
    models = [
        {"architecture": name, "name": name, "weights": {"source": "none"}}
        for name in ("mlp", "lenet")
    ]
    analysis = {
        "primary": ["mls", "sharpness"],
        "covariates": ["num_parameters"],
        "outcomes": [],
    }
    config = parse_config(
        {"name": "zoo", "models": models, "design": {"kind": "none"}, "analysis": analysis}
    )
    store = Store(tmp_path)
    store.prepare(config)
    for size, spec in enumerate(plan(config), start=1):
        untrained = {"learning_rate": None, "batch_size": None, "optimizer": None}
        store.write(record(spec, model=spec.name, num_parameters=size, **untrained))
    rows, design = usable_trials(store)
    assert rows.height == 2
    assert (design.hyperparameters, design.subsets) == ((), ())
    assert design.covariates == ("num_parameters",)
