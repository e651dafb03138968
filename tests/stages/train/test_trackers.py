"""What trackers are told: every loss and measurement of the history, into local files, and nothing else."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import struct
import sys
import types
import warnings
from typing import TYPE_CHECKING

import pytest
from ingot.artifacts.errors import RecipeError
from ingot.artifacts.schema import build
from ingot.stages.train.params import TrainParams, requirements
from ingot.stages.train.trackers import KINDS
from ingot.stages.train.trainer import train

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "a-key-that-nobody-should-see"


@pytest.fixture
def tracked(make_setup, tmp_path, monkeypatch):
    """``(kind, **params) -> History`` of a training that logs below ``tmp_path / "logs"``."""
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, SECRET)

    def go(kind: str, **params: object):
        setup = make_setup(log_to=kind, log_directory=str(tmp_path / "logs"), **params)
        return train(dataclasses.replace(setup, fingerprint="0123456789abcdef"))

    yield go
    for path in (tmp_path / "logs").rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()


def expected(history) -> dict[str, list[tuple[int, float]]]:
    return {
        "loss": [(int(done), loss) for done, loss, _ in history.steps],
        "learning_rate": [(int(done), rate) for done, _, rate in history.steps],
        "selection_loss": [(int(done), loss) for done, loss in history.selection],
    }


def check(history, found: dict[str, list[tuple[int, float]]]) -> None:
    speeds = found.pop("tokens_per_second")
    assert [step for step, _ in speeds] == [1, 2, 3, 4, 5, 6]
    assert all(rate > 0 for _, rate in speeds)
    assert found.keys() == expected(history).keys()
    for name, points in expected(history).items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6), name


class Calls:
    """Narrow stand-ins of libraries: they record what they are told, and its form."""

    def __init__(self) -> None:
        self.made: list[tuple[str, tuple, dict]] = []
        self.points: dict[str, list[tuple[int, float]]] = {}
        self.closed = False

    def __call__(self, name, result=None):
        def call(*args, **options):
            self.made.append((name, args, options))
            return result

        return call

    def point(self, name, value, step) -> None:
        self.points.setdefault(name, []).append((step, value))

    def close(self, *_args) -> None:
        self.closed = True


def fake_wandb(calls: Calls) -> dict[str, object]:
    module = types.ModuleType("wandb")
    module.Settings = calls("Settings", "settings")

    def log(data, step):
        for name, value in data.items():
            calls.point(name, value, step)

    module.init = calls("init", types.SimpleNamespace(log=log, finish=calls("finish")))
    module.teardown = calls.close
    return {"wandb": module}


def fake_mlflow(calls: Calls) -> dict[str, object]:
    package, tracking, entities = (
        types.ModuleType(name) for name in ("mlflow", "mlflow.tracking", "mlflow.entities")
    )

    def log_batch(run, metrics):
        assert run == "run"
        for name, value, stamp, step in metrics:
            assert isinstance(stamp, int)
            calls.point(name, value, step)

    run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="run"))
    client = types.SimpleNamespace(
        get_experiment_by_name=calls("get_experiment_by_name"), log_batch=log_batch,
        create_experiment=calls("create_experiment", "7"), create_run=calls("create_run", run),
        set_terminated=calls.close,
    )  # fmt: skip
    tracking.MlflowClient = calls("MlflowClient", client)
    entities.Metric = lambda *parts: parts
    return {"mlflow": package, "mlflow.tracking": tracking, "mlflow.entities": entities}


def fake_tensorboard(calls: Calls) -> dict[str, object]:
    module = types.ModuleType("torch.utils.tensorboard")
    writer = types.SimpleNamespace(add_scalar=calls.point, close=calls.close)
    module.SummaryWriter = calls("SummaryWriter", writer)
    return {"torch.utils.tensorboard": module}


FAKES = {"tensorboard": fake_tensorboard, "wandb": fake_wandb, "mlflow": fake_mlflow}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tracker_is_told_what_the_history_holds_and_nothing_of_the_host(kind, tracked, monkeypatch):
    calls = Calls()
    for name, module in FAKES[kind](calls).items():
        monkeypatch.setitem(sys.modules, name, module)
    check(tracked(kind), calls.points)
    assert calls.closed
    assert SECRET not in repr(calls.made)
    given = {name: (args, options) for name, args, options in calls.made}
    if kind == "wandb":
        assert given["init"][1]["mode"] == "offline"
        settings = given["Settings"][1]
        assert settings["x_disable_meta"]
        assert settings["host"] == ""
        assert settings["x_save_requirements"] is False
    elif kind == "mlflow":
        assert given["MlflowClient"][1]["tracking_uri"].startswith("sqlite:////")


@pytest.mark.parametrize("kind", KINDS)
def test_a_library_takes_what_its_stand_in_takes(kind, tracked, monkeypatch):
    if importlib.util.find_spec(kind) is None:
        pytest.skip(f"{kind} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            genuine = {"SummaryWriter": SummaryWriter}
        elif kind == "wandb":
            import wandb

            genuine = {"init": wandb.init, "Settings": wandb.Settings}
        else:
            from mlflow.tracking import MlflowClient

            names = ("get_experiment_by_name", "create_experiment", "create_run")
            genuine = {name: getattr(MlflowClient(tracking_uri="sqlite://"), name) for name in names}
            genuine["MlflowClient"] = MlflowClient
    calls = Calls()
    for name, module in FAKES[kind](calls).items():
        monkeypatch.setitem(sys.modules, name, module)
    tracked(kind)
    for name, args, options in (each for each in calls.made if each[0] in genuine):
        inspect.signature(genuine[name]).bind(*args, **options)


@pytest.mark.filterwarnings("ignore")
def test_event_files_hold_every_point_of_a_training(tracked, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = tracked("tensorboard")
    events = EventAccumulator(str(tmp_path / "logs" / "0123456789ab"))
    events.Reload()
    names = events.Tags()["scalars"]
    check(history, {name: [(each.step, each.value) for each in events.Scalars(name)] for name in names})


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_mlflow_holds_every_point_of_a_training(tracked, tmp_path):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    history = tracked("mlflow")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'logs' / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("ingot").experiment_id])
    assert run.info.status == "FINISHED"
    assert not run.data.params
    found = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    check(history, {name: [(each.step, each.value) for each in points] for name, points in found.items()})


@pytest.mark.filterwarnings("ignore")
def test_an_offline_run_of_wandb_is_written_without_a_key(tracked, tmp_path):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    history = tracked("wandb")
    (path,) = (tmp_path / "logs" / "wandb").glob("offline-run-*/run-*.wandb")
    found: dict[str, list[tuple[int, float]]] = {}
    kinds = set()
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        kinds.add(record.WhichOneof("record_type"))
        if record.HasField("run"):
            assert (record.run.project, record.run.run_group, record.run.host) == (
                "ingot", "0123456789ab", "",
            )  # fmt: skip
        if record.HasField("history"):
            points = {".".join(each.nested_key): json.loads(each.value_json) for each in record.history.item}
            for name, value in points.items():
                if not name.startswith("_"):
                    found.setdefault(name, []).append((points["_step"], value))
    check(history, found)
    assert "exit" in kinds  # it was closed, and nothing of it is missing
    assert not list((tmp_path / "logs").rglob("requirements.txt"))


def records(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, as wandb writes one behind seven bytes of its own.

    Blocks of 32 KiB hold pieces: a checksum, a length, and whether it is a record's only, first, middle or
    last one; fewer than seven bytes at the end of a block are filled up.
    """
    assert data.startswith(b":W&B")
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = 32_768 - at % 32_768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_a_tracker_without_a_directory_and_a_directory_without_a_tracker_are_refused():
    with pytest.raises(RecipeError, match="log_to: wandb has no directory") as caught:
        build(TrainParams, {"training_text": "t", "log_to": "wandb"})
    assert caught.value.fix == "name one: log_directory: logs"
    with pytest.raises(RecipeError, match="log_directory has no effect"):
        build(TrainParams, {"training_text": "t", "log_directory": "logs"})


def test_a_tracker_that_is_not_installed_is_named_with_its_remedy_before_work_begins(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", {"wandb": None}.get)
    params = build(TrainParams, {"training_text": "t", "log_to": "wandb", "log_directory": "logs"})
    assert [(each.name, each.met, each.fix) for each in requirements(params)] == [
        ("wandb", False, "pip install wandb")
    ]
