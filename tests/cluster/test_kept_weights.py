"""The weights a trial keeps are those that it measures: the last ones, or their average."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from flatscale.cluster.trial import _obtain, describe
from flatscale.data import load_points, points_key
from flatscale.models import build_model
from flatscale.store.layout import Layout
from flatscale.study.plan import plan
from flatscale.study.reading import parse_config

STUDY: dict[str, Any] = {
    "name": "kept",
    "data": {"source": "digits", "train_size": 40, "test_size": 20, "label_noise": 0.5},
    "models": [{"architecture": "mlp", "options": {"width": 8}}],
    "design": {"kind": "grid", "learning_rate": [0.1], "batch_size": [8]},
    "training": {
        "averaging": {"name": "swa"},
        "stop_loss": None,
        "max_steps": 50,
        "max_epochs": 2,
        "optimizer": {"name": "sam", "momentum": 0.9},
    },
    "keep_checkpoints": True,
}


def test_the_last_weights_and_their_average_are_kept_apart(tmp_path: Path) -> None:
    found = {}
    for weights in ("last", "average", "last", "average"):
        config = parse_config({**STUDY, "measurement": {"weights": weights, "probe_size": 10}})
        dataset, (spec,) = load_points(config).dataset, plan(config)
        context: Any = SimpleNamespace(
            layout=Layout(tmp_path), config=config, datasets={points_key(spec): dataset}
        )
        seed = spec.seed("initialisation")
        model = build_model(
            spec.architecture, dataset.input_shape, 10, dict(spec.options), seed=seed
        )
        measurer: Any = SimpleNamespace(submit=None)
        context.layout.checkpoints.mkdir(exist_ok=True)
        record = _obtain(spec, context, model, measurer, None, describe(spec, dataset))
        assert (record.stop, record.num_steps) == ("epoch_limit", 10)
        assert (record.optimizer, record.momentum) == ("sam", 0.9)
        assert record.labels_changed == dataset.num_labels_changed > 0
        tensor = torch.cat([p.detach().flatten() for p in model.parameters()])
        if weights in found:  # kept by the trial before
            assert torch.equal(found[weights], tensor)
        found[weights] = tensor
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not torch.equal(found["last"], found["average"])
