"""measure(): what it refuses, what it survives, and that the model comes back as it was."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from flatscale.errors import ConfigError, DataError, MetricError
from flatscale.metrics import check_metric_names, measure, metric, metric_catalog
from flatscale.training.losses import point_loss
from tests.metrics.quick import QUICK
from tests.oracles.networks import case


def test_three_lines_are_a_measurement():
    from flatscale import measure

    model, x, y = case("mlp")
    report = measure(
        model,
        (x, y),
        metrics=["mls", "sharpness", "top_eigenvalue"],
        output_map="identity",
        seed=0,
        options={"top_eigenvalue": {"tolerance": 1e-4}},
    )
    assert list(report) == ["mls", "sharpness", "top_eigenvalue"]
    mls = report["mls"]
    assert mls.value > mls.std_error > 0
    assert mls.converged is True
    assert mls.num_evaluations == 1 + 4
    row = report.to_row()
    assert row.height == 1
    assert row["mls_std_error"][0] == mls.std_error


def test_train_mode_frozen_parameters_and_grad_mode_do_not_matter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    x, y = torch.rand(5, 6), torch.tensor([0, 1, 2, 0, 1])
    names = ["mls", "sharpness", "adaptive_sharpness"]
    expected = measure(model.eval(), (x, y), names, options=QUICK)
    model.train().requires_grad_(False)
    with torch.no_grad():
        found = measure(model, (x, y), names, options=QUICK)
    for name in names:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-6)


def test_bfloat16_model_is_measured_in_float32_on_its_own_weights():
    model, x, y = case("vgg")
    half = copy.deepcopy(model).bfloat16()
    before = {name: p.clone() for name, p in half.state_dict().items()}
    rounded = copy.deepcopy(half).float()
    names = ["mls", "sharpness", "adaptive_sharpness"]
    found = measure(half, (x.bfloat16().float(), y), names, options=QUICK)
    expected = measure(rounded, (x.bfloat16().float(), y), names, options=QUICK)
    for name in names:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-6)
        assert "measured in float32" in found[name].reason
    for name, value in half.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name])


def test_an_error_inside_becomes_the_reason():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            raise RuntimeError("no forward today")

    model = Broken().train()
    report = measure(model, (torch.rand(2, 3), torch.tensor([0, 1])), ["mls", "test_loss"])
    assert report["mls"].reason == "RuntimeError: no forward today"
    assert "no test set was given" in report["test_loss"].reason


def test_what_cannot_be_computed_says_why_and_spoils_nothing_else():
    x, y = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    no_linear = nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Flatten(), nn.BatchNorm1d(6))
    report = measure(no_linear, (x, y), ["nmls", "bound_b", "mls", "sharpness"])
    assert "no linear layer" in report["nmls"].reason
    assert "no linear layer" in report["bound_b"].reason
    assert report["mls"].value > 0
    assert report["sharpness"].value > 0
    one = nn.Linear(6, 1)
    report = measure(
        one, (x, torch.zeros(4)[:, None]), ["test_accuracy", "mls"], test=(x, x[:, :1])
    )
    assert "one output" in report["test_accuracy"].reason
    assert report["mls"].value == pytest.approx(one.weight.norm().item(), rel=1e-5)
    images = nn.Conv2d(1, 2, 3)
    report = measure(images, (torch.rand(2, 1, 5, 5), torch.tensor([0, 1])), ["mls"])
    assert "(batch, classes)" in report["mls"].reason


def test_predictions_and_gaps():
    model, x, y = case("mlp", num_points=40)
    a, b = slice(0, 25), slice(25, 40)
    names = [i.name for i in metric_catalog() if i.group == "outcome"]
    report = measure(model, (x, y), names, train=(x[a], y[a]), test=(x[b], y[b]))
    model.eval()
    with torch.no_grad():
        outputs = model(x)
    losses = 0.5 * (outputs - nn.functional.one_hot(y, 4)).square().sum(dim=1)
    hits = (outputs.argmax(dim=1) == y).float()
    assert report["train_loss"].value == pytest.approx(float(losses[a].mean()), rel=1e-5)
    assert report["test_loss"].value == pytest.approx(float(losses[b].mean()), rel=1e-5)
    assert report["train_accuracy"].value == pytest.approx(float(hits[a].mean()))
    assert report["test_accuracy"].value == pytest.approx(float(hits[b].mean()))
    gap = float(hits[a].mean() - hits[b].mean())
    assert report["generalization_gap"].value == pytest.approx(gap)
    assert report["loss_gap"].value == pytest.approx(float(losses[b].mean() - losses[a].mean()))


def test_data_loader_and_ragged_last_batch_equal_tensors():
    model, x, y = case("mlp", num_points=7)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=3)
    expected, found = measure(model, (x, y), ["mls"]), measure(model, loader, ["mls"])
    assert found["mls"].value == expected["mls"].value
    assert found.probe_hash == expected.probe_hash


def test_a_reason_with_brackets_prints_as_it_is():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            raise RuntimeError("no [batch] in [/here]")

    report = measure(Broken(), (torch.rand(2, 3), torch.tensor([0, 1])), ["mls"])
    assert "no [batch] in [/here]" in str(report)
    assert repr(report) == str(report)


def test_a_models_own_output_type_with_logits_is_measured():
    class Outputs:
        def __init__(self, logits):
            self.logits = logits

    class Wrapped(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return Outputs(self.inner(x))

    model, x, y = case("vgg")
    # without what other tests' plugins registered in this process
    own = [i for i in metric_catalog() if i.function.__module__.startswith("flatscale.")]
    names = [info.name for info in own]
    sets = {"train": (x, y), "test": (x, y), "shifted": (x, y)}
    expected = measure(model, (x, y), names, options=QUICK, **sets)
    found = measure(Wrapped(model), (x, y), names, options=QUICK, **sets)
    for name in names:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-5, abs=1e-9), name


def test_options_are_taken_in_their_declared_types_or_refused():
    model, x, y = case("mlp")
    shares = {"finite_mls": {"radius_shares": [1.0, 0.1], "num_steps": 2}}
    assert measure(model, (x, y), ["finite_mls"], options=shares)["finite_mls"].value > 0
    with pytest.raises(ConfigError, match=r"options\.finite_mls: 'num_steps': .*found 'many'"):
        check_metric_names(None, {"finite_mls": {"num_steps": "many"}})
    with pytest.raises(
        ConfigError, match=r"options\.worst_case_sharpness: 'num_steps': .*found 2\.5"
    ):
        check_metric_names(None, {"worst_case_sharpness": {"num_steps": 2.5}})


def test_what_is_no_module_is_refused():
    with pytest.raises(MetricError, match=r"must be a torch\.nn\.Module; found function"):
        measure(lambda x: x, (torch.rand(2, 2), torch.tensor([0, 1])), ["mls"])


def test_class_indices_beyond_the_outputs_are_named():
    report = measure(
        nn.Linear(3, 2), (torch.rand(2, 3), torch.tensor([0, 2])), ["keskar_sharpness"]
    )
    assert "class indices must lie in 0..1, one per output; found 0..2" in (
        report["keskar_sharpness"].reason
    )


def test_report_prints_and_converts():
    model, x, y = case("mlp")
    report = measure(model, (x, y), ["mls", "train_loss"])
    frame = report.to_polars()
    assert frame["metric"].to_list() == ["mls", "train_loss"]
    assert frame["value"][0] == report["mls"].value
    assert frame["value"][1] is None
    assert "train" in frame["reason"][1]
    assert report.to_row()["mls"][0] == report["mls"].value
    assert "mls" in str(report)
    assert len(report) == 2


def test_default_set_needs_only_what_is_given():
    model, x, y = case("mlp")
    report = measure(model, (x, y), options=QUICK)
    assert {"mls", "sharpness", "adaptive_sharpness"} <= set(report)
    assert "train_loss" not in report
    assert all(m.value is not None for m in report.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_metric_names(["mlss"]), "did you mean 'mls'"),
        (lambda: check_metric_names(["mls"], {"log_lvr": {"volume_rnk": 3}}), "'volume_rank'"),
        (
            lambda: check_metric_names(["mls"], {"log_lvr": {"volume_rank": 0}}),
            "greater than 0; found 0",
        ),
        (lambda: check_metric_names(["mls"], {"mls": {"x": 3}}), "'x'; allowed: .*tolerance"),
        (lambda: check_metric_names(["mls"], {"train_loss": {"x": 3}}), "it takes none"),
        (
            lambda: check_metric_names(None, {"hessian_trace": {"max_products": 20}}),
            "options.hessian_trace: max_products must be at least 2 sketch_size",
        ),
        (lambda: check_metric_names(["mls"], {"adaptive_sharpnes": {}}), "adaptive_sharpness"),
        (
            lambda: check_metric_names(None, {"adaptive_sharpness": {"rho": -1.0}}),
            "greater than 0; found -1.0",
        ),
        (lambda: point_loss("cross_entrpy"), "'cross_entropy'"),
        (
            lambda: measure(
                nn.Linear(2, 2), (torch.rand(2, 2), torch.tensor([0, 1])), output_map="x"
            ),
            "output map",
        ),
    ],
)
def test_bad_names_are_refused_with_the_nearest_valid_one(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_data_that_is_not_points_is_refused():
    with pytest.raises(DataError, match="probe set must be"):
        measure(nn.Linear(2, 2), [3, 4, 5])


def test_catalog_is_complete():
    for info in metric_catalog():
        assert info.formula, info.name
        assert info.meaning.endswith("."), info.name
        assert info.group in {
            *("compression", "sharpness", "bound", "invariance", "outcome"),
            *("robustness", "calibration", "compressibility", "information"),
        }


def test_losses_per_point():
    outputs = torch.randn(5, 3)
    y = torch.tensor([0, 2, 1, 1, 0])
    onehot = np.eye(3)[y.numpy()]
    squares = np.square(outputs.numpy() - onehot).sum(axis=1)
    np.testing.assert_allclose(point_loss("squared_error")(outputs, y), squares, rtol=1e-6)
    np.testing.assert_allclose(point_loss("half_squared_error")(outputs, y), squares / 2, rtol=1e-6)
    logs = torch.log_softmax(outputs, dim=1)[range(5), y]
    torch.testing.assert_close(point_loss("cross_entropy")(outputs, y), -logs)
    soft = torch.from_numpy(onehot).float()
    torch.testing.assert_close(point_loss("cross_entropy")(outputs, soft), -logs)
    torch.testing.assert_close(
        point_loss("squared_error")(outputs, soft), torch.from_numpy(squares).float()
    )


def test_cross_entropy_takes_logits_whatever_the_output_map():
    model, x, y = case("mlp")
    reports = [
        measure(model, (x, y), ["train_loss"], train=(x, y), loss="cross_entropy", output_map=m)
        for m in ("identity", "softmax")
    ]
    assert reports[0]["train_loss"].value == reports[1]["train_loss"].value


def test_a_new_metric_is_one_decorated_function():
    from flatscale.measurement import Measurement
    from flatscale.metrics.registration import METRICS

    @metric("widest", passes=("jacobian",), formula="max σ₁", group="compression")
    def widest(jacobian):
        """Largest sensitivity."""
        return Measurement(name="widest", value=float(jacobian.squared_norms.max()) ** 0.5)

    try:
        model, x, y = case("mlp")
        report = measure(model, (x, y), ["widest", "mls"])
        assert report["widest"].value >= report["mls"].value
    finally:
        del METRICS._entries["widest"]
