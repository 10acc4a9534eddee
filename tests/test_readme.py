"""What README and the pages of docs show works as it is written."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch
import yaml
from typer.testing import CliRunner

from flatscale.cli.commands import app
from flatscale.metrics import measure, metric_catalog
from flatscale.metrics.registration import PASSES
from flatscale.models import build_model
from flatscale.preflight import check_study
from flatscale.store.results import Store
from flatscale.study.plan import plan
from flatscale.study.reading import load_config, parse_config, parse_table_study
from flatscale.study.registry import import_plugins
from flatscale.study.schema import json_schema
from tests.records_by_hand import record
from tests.test_wheel import TINY

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {path.name: path.read_text(encoding="utf-8") for path in PAGES}
README = TEXT["README.md"]
PLUGINS = TEXT["plugins.md"].partition("## Each kind of thing")[0]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Every command of every page, lines that go on joined."""
    found = []
    for name, text in TEXT.items():
        for block in blocks("sh", text):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name, " ".join(line.split())) for line in lines if line.strip()]
    return found


def test_the_studies_are_valid() -> None:
    whole, design, training = blocks("yaml", TEXT["study-file.md"])
    assert len(plan(parse_config(yaml.safe_load(whole)))) == 64
    study = {"name": "s", "models": [{"architecture": "mlp"}]}
    varied = parse_config({**study, **yaml.safe_load(design)})
    assert len(check_study(varied)) == (2 * 2 * 2 * 3 - 4) * 3
    fixed = {"kind": "grid", "learning_rate": [0.1], "batch_size": [8]}
    parts = {**yaml.safe_load(training), "design": fixed}
    assert parse_config({**study, **parts}).training.optimizer.name == "sam"
    (audit,) = blocks("yaml", TEXT["report.md"])
    assert parse_table_study(yaml.safe_load(audit)).table.joined is not None


def test_the_library_example_runs() -> None:
    of_readme, of_start = (
        [block for block in blocks("python", text) if "from flatscale import measure" in block]
        for text in (README, TEXT["index.md"])
    )
    assert of_readme == of_start != []
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    points = {"model": model, "x": torch.rand(5, 1, 2, 2), "y": torch.tensor([0, 1, 2, 0, 1])}
    exec(of_readme[0], points)
    assert points["report"]["mls"].value > 0


def test_the_plugins_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = []
    for block in blocks("python", PLUGINS):
        if found := re.match(r"# (my_\w+)\.py\n", block):
            (tmp_path / f"{found[1]}.py").write_text(block)
            modules.append(found[1])
    assert modules == ["my_metrics", "my_models", "my_report"]
    monkeypatch.chdir(tmp_path)
    # The section would stay in every report of this process; test_report_plugins has it in its own.
    import_plugins(modules[:2])
    model = build_model("linear", (1, 2, 2), 3, {"bias": False}, seed=0)
    report = measure(
        model,
        (torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1, 2])),
        metrics=["largest_gram_trace", "input_gradient"],
    )
    # A linear network has the same Jacobian everywhere.
    assert report["largest_gram_trace"].value == pytest.approx(report["input_gradient"].value)


def test_every_command_is_named() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert f"`flatscale {command.callback.__name__}" in TEXT["index.md"]


_WHEEL, _HERE = (
    "tests/test_wheel.py: def test_a_first_hour_with_the_wheel",
    "tests/test_readme.py: ",
)
_CLI, _JOIN = "tests/cli/test_cli.py: def ", "tests/cluster/test_joined_ray.py: def "
_TUTORIAL = f"{_HERE}def test_the_tutorial"
_SLURM, _KUBE, _LAUNCHER = "jobs/slurm.sh: ", "jobs/kuberay.yaml: ", "jobs/ray_cluster.yaml: "
_SECRET = "kubectl create secret generic flatscale-ray-token"
ELSEWHERE = {
    "make setup": ".ci/run: make setup",
    "make test": ".ci/run: make test",
    "make lint": ".ci/run: make lint",
    "make quickstart": "Makefile: quickstart: $(STAMP)",
    ".venv/bin/flatscale run quickstart": _WHEEL,
    "flatscale run quickstart": _WHEEL,
    "flatscale run configs/cifar10_vgg.yaml --set data.path=/where/cifar10/is": "tests/study/"
    "test_trial_ids.py: cifar10_vgg",
    "flatscale run first.yaml": _TUTORIAL,
    "flatscale run first.yaml --set design.num_seeds=2": _TUTORIAL,
    "flatscale report runs/first": _TUTORIAL,
    "flatscale analyze runs/first/table.parquet --x sharpness --y mls --log sharpness,mls "
    "--family family --label trial_id": _TUTORIAL,
    "flatscale ui runs/first": f"{_CLI}test_the_ui_opens_the_experiments_runs",
    "flatscale analyze results-imagenet.csv --x param_count --y top1 --log param_count "
    "--family-from model --outcomes results-imagenet-a.csv --on model,img_size": f"{_CLI}"
    "test_a_table_whose_rows_several_columns_name_together",
    "ray get-auth-token --generate > /dev/null": f"{_LAUNCHER}ray get-auth-token --generate",
    "chmod 600 ~/.ray/auth_token": f"{_LAUNCHER}make the token's file yours: chmod 600 ~/.ray",
    "export RAY_AUTH_MODE=token": f"{_SLURM}export RAY_AUTH_MODE=token",
    "ray start --head --port 6379 --disable-usage-stats": f"{_SLURM}ray start --head --port",
    "ray start --address HEAD:6379 --disable-usage-stats": f"{_SLURM}ray start --address",
    "RAY_AUTH_MODE=token flatscale run study.yaml --address auto --store /shared/first": _JOIN,
    "ray job submit --working-dir . -- python jobs/run_study.py configs/quickstart.yaml --store "
    "/shared/quickstart": "tests/cluster/test_jobs.py: jobs/run_study.py",
    "sbatch --nodes 4 jobs/slurm.sh configs/quickstart.yaml --store /shared/quickstart": f"{_SLURM}"
    "sbatch --nodes 4 jobs/slurm.sh CONFIG --store",
    f"{_SECRET} --from-literal auth_token=$(openssl rand -hex 32)": f"{_KUBE}  {_SECRET}",
    "kubectl apply -f jobs/kuberay.yaml": f"{_KUBE}kubectl apply",
    "ray up jobs/ray_cluster.yaml": f"{_LAUNCHER}`ray up jobs/ray_cluster.yaml`",
}
"""Commands that another test runs, or reads where a service is not at hand: its file and words."""


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner, ran = CliRunner(), []
    for page, line in dict.fromkeys(commands()):
        if line in ELSEWHERE:
            file, _, words = ELSEWHERE[line].partition(": ")
            assert words in (ROOT / file).read_text(encoding="utf-8"), line
            continue
        program, *arguments = shlex.split(line)
        assert program == "flatscale", f"{page}: no test runs {line!r}"
        if arguments[0] == "status":  # of a store with invented numbers
            study = load_config("first.yaml")
            store = Store("runs/first")
            store.prepare(study)
            store.write(record(plan(study)[0]))
        done = runner.invoke(app, arguments)
        assert done.exit_code == 0, f"{page}: {line}\n{done.output}\n{done.exception!r}"
        ran.append(arguments[0])
    assert ran == ["init", "plan", "status"]
    assert not set(ELSEWHERE) - {line for _, line in commands()}


@pytest.mark.slow
def test_the_tutorial(tmp_path: Path) -> None:
    tutorial = [line for page, line in commands() if page == "tutorial.md" and " ui " not in line]
    assert len(tutorial) == 7
    for line in tutorial:
        program, *arguments = shlex.split(line)
        if arguments[0] == "run":
            tiny = [part for key, value in TINY for part in ("--set", f"{key}={value}")]
            arguments[2:2] = tiny  # before the line's own, which come last and count
        command = [sys.executable, "-m", program, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    (code,) = blocks("python", TEXT["tutorial.md"])
    found: dict[str, Any] = {}
    with contextlib.chdir(tmp_path):
        exec(code, found)
    assert found["table"].height == 4  # two networks, then two seeds of each
    assert (tmp_path / "analysis" / "report.html").is_file()


def _generated() -> SimpleNamespace:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("generated_pages")  # type: ignore[return-value]
    finally:
        sys.path.remove(str(ROOT / "docs"))


def test_the_reference_has_every_key_metric_and_pass() -> None:
    generated = _generated()
    keys = "\n".join(generated.study_keys())
    for name, part in json_schema()["$defs"].items():
        section = keys.partition(f"## {name}\n")[2].partition("\n## ")[0]
        for key, about in part.get("properties", {}).items():
            (row,) = [line for line in section.splitlines() if line.startswith(f"| `{key}` |")]
            assert generated.cell(about.get("description", "")) in row
    assert "| `label_noise` | number ≥ 0 ≤ 1 | `0.0` | Share of the training labels" in keys
    metrics, passes = "\n".join(generated.metrics()), "\n".join(generated.passes())
    for info in metric_catalog():
        assert f"### {info.name}\n" in metrics
        assert info.meaning in metrics
    assert all(f"### {name}\n" in passes for name in PASSES)
    assert "### Jacobians\n" in passes
    assert "| `leading` |" in passes


def _letters(text: str) -> str:
    digits = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", "01234567890123456789", strict=True))
    return "".join(digits.get(c, c) for c in text if c.isalnum() and c not in "ΣΠ")


@pytest.mark.parametrize("info", metric_catalog(), ids=lambda info: info.name)
def test_a_typeset_formula_says_what_the_registry_says(info: SimpleNamespace) -> None:
    found = ET.fromstring(_generated().mathml(info.formula))
    shown = "".join(found.itertext()).replace("ϵ", "ε").replace("ϕ", "φ")
    assert sorted(_letters(shown)) == sorted(_letters(info.formula))  # ∇²_θ is written ∇_θ²
    roots = sum(element.tag.endswith("msqrt") for element in found.iter())
    assert roots == info.formula.count("√")


def test_a_root_covers_what_it_should() -> None:
    latex = _generated().latex
    plain = {
        "√S": r"\sqrt{S }",
        "√(log n / k)": r"\sqrt{\operatorname{log}\ n \ / \ k }",
        "√mean_i (a_i)² √S": r"\sqrt{\operatorname{mean}_{i } (a _{i })^{2}}\ \sqrt{S }",
    }
    for formula, expected in plain.items():
        assert latex(formula).replace(" ", "") == expected.replace(" ", "")


def test_the_files_for_clusters_are_whole() -> None:
    script = ROOT / "jobs" / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
    kube = yaml.safe_load((ROOT / "jobs" / "kuberay.yaml").read_text(encoding="utf-8"))
    assert (kube["apiVersion"], kube["kind"]) == ("ray.io/v1", "RayJob")
    cluster = kube["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [*(group["template"] for group in groups), kube["spec"]["submitterPodTemplate"]]
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    assert cluster["rayVersion"] == pins["ray"]
    for pod in pods:  # every process of the cluster asks for the token, and has it
        (container,) = pod["spec"]["containers"]
        assert [one["name"] for one in container["env"]] == ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN"]
    program, *arguments = shlex.split(kube["spec"]["entrypoint"])
    assert program == "flatscale"
    _parses(arguments)
    launcher = yaml.safe_load((ROOT / "jobs" / "ray_cluster.yaml").read_text(encoding="utf-8"))
    for role in ("head", "worker"):
        assert "RAY_AUTH_MODE=token ray start" in launcher[f"{role}_start_ray_commands"][-1]


def test_continuous_integration_runs_the_checks_that_the_readme_names() -> None:
    named = [line for page, line in commands() if page == "README.md" and line.startswith("make")]
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert named == ["make setup", "make test", "make lint"]
    for line in named:
        assert line in run
        assert f"\n{line.removeprefix('make ')}: " in targets


def test_the_image_runs_what_the_readme_runs() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    told = dict(line.split(" ", 1) for line in lines if line[:1].isalpha())
    assert yaml.safe_load(told["CMD"]) == ["flatscale", "run", "quickstart"]
    assert "flatscale run quickstart" in README
    (mounted,) = re.findall(r'"\$PWD/(runs:\S+)"', "\n".join(lines))
    assert mounted == f"runs:{told['WORKDIR']}/runs"
    assert "-c constraints.txt" in told["RUN"]
    assert "-c constraints.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")


def _parses(arguments: list[str]) -> None:
    """The command line takes these arguments; the command itself is not run."""
    import typer

    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(SimpleNamespace(), arguments)  # type: ignore[arg-type]
    command.make_context(name, rest)


def test_the_figure_of_the_readme_is_there_and_small() -> None:
    for path in re.findall(r"!\[[^]]*\]\((.*?)\)", README):
        assert (ROOT / path).stat().st_size < 60_000
    for path in re.findall(r"\]\(((?!http)[^)#]*)\)", README):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet"]
    done = subprocess.run(
        [*command, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "metrics.html").read_text(encoding="utf-8")
    assert page.count("<math") == len(metric_catalog())
