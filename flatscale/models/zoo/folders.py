"""Zoos in folders: checkpoints with a table, Hugging Face's folders, ModelZooDataset's."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt, ValidationError
from torch import nn

from flatscale.errors import ModelError
from flatscale.models.architectures import model
from flatscale.models.pytorch_image_models import PREFIX, SET_HERE, timm_module
from flatscale.models.zoo.entries import NONE, ZooEntry, matches, read_columns, zoo_reader
from flatscale.models.zoo.timm_registry import Patterns, timm_preprocessing
from flatscale.models.zoo.weights import file_weights, find_weights
from flatscale.study.pretrained import Preprocessing, WeightsConfig

_DESCRIBING = ("path", "name", "architecture", "options", "family", "preprocessing")


@zoo_reader("folder")
def checkpoint_folder(*, path: str, table: str | None = None) -> Iterator[ZooEntry]:
    """Checkpoints and one table, a row a network: `path` (from the table's folder), `architecture`;
    where there are any, `name`, `options` and `preprocessing` (JSON), `family`. Every other column
    of numbers is an outcome.

    Args:
        path: the folder.
        table: its table, CSV or Parquet; the only one in the folder by default.
    """
    folder = _folder(path)
    file = folder / table if table else _only_table(folder)
    rows = read_columns(file, ("path", "architecture"))
    outcomes = [c for c in rows.columns if c not in _DESCRIBING and rows[c].dtype.is_numeric()]
    for number, row in enumerate(rows.iter_rows(named=True), start=1):
        where = f"{file}, row {number}"
        checkpoint = file.parent / _text(row, "path", where)
        wanted = _json(row.get("preprocessing"), f"{where}, preprocessing")
        yield ZooEntry(
            name=str(row.get("name") or Path(row["path"]).with_suffix("")),
            architecture=_text(row, "architecture", where),
            options=_json(row.get("options"), f"{where}, options"),
            family=row.get("family"),
            preprocessing=_preprocessing(wanted, where) if wanted else None,
            weights=file_weights(checkpoint, checkpoint.stem),
            outcomes={c: float(row[c]) for c in outcomes if row[c] is not None},
        )


@zoo_reader("huggingface")
def hugging_face_folders(
    *, path: str, match: Patterns = ("*",), exclude: Patterns = ()
) -> Iterator[ZooEntry]:
    """Folders of `config.json` and weights, as timm writes image classifiers for the hub.

    Args:
        path: one such folder, or the folder they are in.
        match: patterns of their names.
        exclude: of these, patterns of those to skip.
    """
    root = _folder(path)
    for config in sorted({*root.glob("config.json"), *root.glob("*/config.json")}):
        name = config.parent.name
        if not matches(name, match):
            continue
        content = _read_json(config)
        settings = {**content, **content.get("pretrained_cfg", {})}
        architecture = str(settings.get("architecture", ""))
        skipped = "excluded by the study file" if matches(name, exclude) else None
        if not timm_module().is_model(architecture):
            yield ZooEntry(
                name=name,
                architecture=f"{PREFIX}{architecture}",
                weights=WeightsConfig(source=NONE),
                skipped=f"{config} names no architecture of timm's (found {architecture!r})",
            )
            continue
        tag, arguments = str(settings.get("tag") or name), content.get("model_args", {})
        if "img_size" in arguments:
            side = arguments["img_size"]
            sides = side if isinstance(side, list) else [side, side]
            channels = settings.get("input_size", (3,))[0]
            settings["input_size"] = (arguments.get("in_chans", channels), *sides)
        yield ZooEntry(
            name=name,
            architecture=PREFIX + architecture.partition(".")[0],
            options={k: v for k, v in arguments.items() if k not in SET_HERE and _is_option(v)},
            preprocessing=timm_preprocessing(settings),
            weights=find_weights(root, name, tag)
            if config.parent != root
            else find_weights(root.parent, name, tag),
            skipped=skipped,
        )


@zoo_reader("modelzoo")
def model_zoo_dataset(*, path: str, epoch: PositiveInt | None = None) -> Iterator[ZooEntry]:
    """ModelZooDataset's layout (Schürholt et al. 2022): a folder a network, with `params.json`,
    `result.json` (a line an epoch) and `checkpoint_<epoch>/checkpoints`.

    Args:
        path: the zoo's folder.
        epoch: whose checkpoints; the last of each network by default.
    """
    root = _folder(path)
    files = sorted(root.glob("*/params.json"))
    if not files:
        raise ModelError(f"{root} must hold folders with params.json; found none")
    for file in files:
        settings, folder = _read_json(file), file.parent
        epochs = {int(p.name.rpartition("_")[2]): p for p in folder.glob("checkpoint_*[0-9]")}
        wanted = epoch or max(epochs, default=0)
        kind = str(settings.get("model::type", ""))
        skipped = None if kind in _LAYERS else f"its model::type {kind!r} is not {_KINDS}"
        chosen = epochs.get(wanted, folder / f"checkpoint_{wanted:06d}")
        known = {k: settings.get(f"model::{k}") for k in ("nlin", "dropout")}
        yield ZooEntry(
            name=folder.name,
            architecture="modelzoo_cnn",
            family=f"modelzoo_{kind}",
            options={"kind": kind, **{k: v for k, v in known.items() if v is not None}},
            weights=file_weights(_only_file(chosen), f"epoch {wanted}"),
            outcomes=_results(folder / "result.json", wanted),
            skipped=skipped,
        )


@dataclass(frozen=True)
class _Layers:
    """A network of ModelZooDataset: channels, kernels, units after the last, pools, image side."""

    channels: tuple[int, int, int]
    kernels: tuple[int, int, int]
    flat: int
    pools: int
    side: int


_LAYERS = {
    "CNN": _Layers((8, 6, 4), (5, 5, 2), 36, 2, 28),
    "CNN2": _Layers((6, 9, 6), (5, 5, 2), 54, 2, 28),
    "CNN3": _Layers((16, 32, 15), (3, 3, 3), 60, 3, 32),
}
_KINDS = "CNN, CNN2 or CNN3"
_NONLINEARITIES = {
    "leakyrelu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


@model("modelzoo_cnn", family="modelzoo")
def modelzoo_cnn(
    input_shape: tuple[int, int, int],
    num_classes: int,
    *,
    kind: Literal["CNN", "CNN2", "CNN3"] = "CNN",
    nlin: Literal["leakyrelu", "relu", "tanh", "sigmoid", "silu", "gelu"] = "leakyrelu",
    dropout: float = 0.0,
) -> nn.Module:
    """ModelZooDataset's convolutional networks, under its names of parameters: `CNN` and `CNN2` for
    images of 28x28, `CNN3` for 32x32; others are resized first.

    Args:
        input_shape: (channels, height, width).
        num_classes: outputs.
        kind: which of the three.
        nlin: nonlinearity.
        dropout: of the three layers in between; it changes the parameters' names.
    """
    layers, found = _LAYERS[kind], list[nn.Module]()
    activate = _NONLINEARITIES[nlin]
    sizes = (input_shape[0], *layers.channels)
    drops = dropout > 0 or kind == "CNN3"
    for place, (before, after) in enumerate(itertools.pairwise(sizes)):
        found.append(nn.Conv2d(before, after, layers.kernels[place]))
        found += [nn.MaxPool2d(2)] * (place < layers.pools)
        found.append(activate())
        found += [nn.Dropout(dropout)] * (drops and place < layers.pools)
    found += [nn.Flatten(), nn.Linear(layers.flat, 20), activate()]
    found += [nn.Dropout(dropout)] * drops
    found.append(nn.Linear(20, num_classes))
    network = nn.Sequential()
    if input_shape[1:] != (layers.side, layers.side):
        network.add_module("resize", nn.Upsample((layers.side, layers.side), mode="bilinear"))
    network.add_module("module_list", nn.Sequential(*found))
    return network


def _folder(path: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise ModelError(f"models.zoo.path {folder} is not a folder")
    return folder


def _only_table(folder: Path) -> Path:
    tables = sorted(p for p in folder.iterdir() if p.suffix in (".csv", ".parquet"))
    if len(tables) != 1:
        found = ", ".join(p.name for p in tables) or "none"
        raise ModelError(f"{folder} must hold one table; found {found}: set models.zoo.table")
    return tables[0]


def _only_file(folder: Path) -> Path:
    """The file that Ray Tune's checkpoint consists of, whatever it is called."""
    files = [p for p in folder.glob("[!.]*") if p.is_file()]
    return files[0] if len(files) == 1 else folder


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    if not isinstance(row[column], str) or not row[column]:
        raise ModelError(f"{where}: {column} must be a text; found {row[column]!r}")
    return row[column]


def _json(text: Any, where: str) -> dict[str, Any]:
    if text is None or text == "":
        return {}
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{where}: must be JSON; found {text!r} ({error})") from error
    if not isinstance(found, dict):
        raise ModelError(f"{where}: must be a mapping; found {text!r}")
    return found


def _preprocessing(wanted: Mapping[str, Any], where: str) -> Preprocessing:
    try:
        return Preprocessing.model_validate(wanted)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(map(str, fault["loc"]))
        raise ModelError(f"{where}, preprocessing: {key}: {fault['msg']}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    return _json(text, str(path))


def _results(path: Path, epoch: int) -> dict[str, float]:
    """Losses and accuracies of one epoch, as Ray Tune wrote them down; none where it has none."""
    if not path.is_file():
        return {}
    lines = [_json(line, str(path)) for line in path.read_text().splitlines() if line.strip()]
    found = [line for line in lines if line.get("training_iteration") == epoch]
    named = found[-1] if found else {}
    return {
        key: float(value)
        for key, value in named.items()
        if key.startswith(("train_", "test_", "validation_")) and isinstance(value, int | float)
    }


def _is_option(value: Any) -> bool:
    listed = value if isinstance(value, list) else [value]
    return all(isinstance(part, bool | int | float | str) for part in listed)
