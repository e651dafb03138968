"""From a reference to a directory: local paths, and the hub's cache as it lies on disk, without a network."""

from __future__ import annotations

import shutil

import huggingface_hub
import pytest
from huggingface_hub import errors
from ingot.artifacts.errors import IntakeError, RequirementError
from ingot.stages.load.hub import resolve
from ingot.stages.load.intake import inspect_source
from ingot.stages.load.stage import LoadParams, files_read

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tiny_checkpoint, tmp_path, monkeypatch):
    """The hub's cache with one model in it, its files linked into the blobs as the hub client does."""
    repository = tmp_path / "hub" / "models--some-lab--tiny-llama"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(tiny_checkpoint("llama").iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_a_snapshot_in_the_cache_is_found_without_a_network(cached, revision):
    assert resolve(f"some-lab/tiny-llama@{revision}") == cached


def test_a_snapshot_passes_intake_though_it_links_to_its_blobs_and_says_where_it_is_from(
    cached, tiny_checkpoint
):
    facts = inspect_source(cached)
    assert facts.identity() == inspect_source(tiny_checkpoint("llama")).identity()
    assert facts.source == {"uri": "hf://some-lab/tiny-llama", "revision": COMMIT}
    assert "model.safetensors" in files_read(LoadParams(model=f"some-lab/tiny-llama@{COMMIT}"))


def test_a_snapshot_that_links_out_of_its_repository_is_refused(cached, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (cached / "generation_config.json").unlink()
    (cached / "generation_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(IntakeError, match="is a symlink out of the checkpoint"):
        inspect_source(cached)


@pytest.mark.parametrize("revision", ["f" * 40, "v2"])
def test_what_is_not_in_the_cache_needs_the_hub(cached, revision):
    with pytest.raises(RequirementError, match="not in the hub's cache") as caught:
        resolve(f"some-lab/tiny-llama@{revision}")
    assert caught.value.where == f"some-lab/tiny-llama@{revision}"
    assert "hf download some-lab/tiny-llama --revision" in caught.value.fix


def test_a_directory_is_itself_even_when_it_looks_like_a_name_on_the_hub(
    tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    local = shutil.copytree(tiny_checkpoint("gpt2"), tmp_path / "lab" / "model@v1")
    assert resolve("lab/model@v1").samefile(local)
    assert resolve(str(local)) == local
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/lab/model@v1") == local


@pytest.mark.parametrize("reference", ["some-lab/tiny-llama", "./nowhere", "tiny@main", "a/b/c@main"])
def test_a_name_without_a_revision_and_a_path_that_is_not_there_are_refused(tmp_path, monkeypatch, reference):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IntakeError, match="does not exist") as caught:
        resolve(reference)
    assert "org/name@revision" in caught.value.fix


def test_an_empty_name_is_not_the_current_directory():
    with pytest.raises(IntakeError, match="no model is named"):
        resolve("")


class Response:
    """As much of an HTTP answer as the hub's errors look at."""

    def __init__(self):
        self.headers, self.request = {}, None


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (lambda: errors.GatedRepoError("x", response=Response()), "access to the model must be granted"),
        (lambda: errors.RevisionNotFoundError("x", response=Response()), "but not this revision"),
        (lambda: errors.RepositoryNotFoundError("x", response=Response()), "no such model, or it is private"),
        (lambda: errors.HfHubHTTPError("503\nbusy", response=Response()), "the hub refused: HfHubHTTPError"),
        (lambda: OSError(28, "No space left on device"), "the download failed: OSError"),
        (lambda: errors.HFValidationError("odd name"), "the download failed: HFValidationError: odd name"),
    ],
)  # fmt: skip
def test_what_the_hub_answers_is_put_into_words(monkeypatch, raised, message):
    def answer(*_args, **_options):
        raise raised()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(IntakeError) as caught:
        resolve("lab/model@main")
    assert message in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.where == "lab/model@main"


def test_neither_pickles_nor_code_are_asked_of_the_hub(monkeypatch, tmp_path):
    from fnmatch import fnmatchcase

    asked = {}

    def answer(repository, **options):
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    assert resolve("lab/model@v1.0") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("lab/model", "v1.0")

    def wanted(name):
        return any(fnmatchcase(name, pattern) for pattern in asked["allow_patterns"])

    for name in ("config.json", "model-00001-of-00030.safetensors", "tokenizer.json", "LICENSE", "README.md"):
        assert wanted(name)
    for name in (
        "pytorch_model.bin",
        "modeling_x.py",
        "model.pt",
        "onnx/model.onnx",
        "tf_model.h5",
        "x.gguf",
    ):
        assert not wanted(name)
