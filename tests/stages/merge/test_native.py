"""The kernels against torch and numpy, byte for byte, and against published vectors of the generator."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingot.stages.merge import native
from ingot.stages.merge.random import Stream

from .conftest import carry_out, task_of

SOURCE = Path(native.__file__).with_name("kernels.c")
FIXTURES = [HealthCheck.function_scoped_fixture]
METHODS = ("linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties")
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The kernels, built as `pyproject.toml` says."""
    import tomllib

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler, so there are no kernels either")
    settings = tomllib.loads((SOURCE.parents[2] / "pyproject.toml").read_text())
    (extension,) = settings["tool"]["setuptools"]["ext-modules"]
    built = tmp_path_factory.mktemp("kernels") / "kernels.so"
    command = [compiler, *extension["extra-compile-args"], "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", built, SOURCE, "-lm"], check=True)
    found = native.load(built)
    assert found is not None
    return found


@pytest.fixture
def both(kernels, monkeypatch):
    """both(task, **more): the output as bytes, with the kernels and without."""

    def run(task, **more):
        found = []
        for library in (kernels, None):
            monkeypatch.setattr(native, "library", lambda library=library: library)
            found.append(carry_out(task, **more).reshape(-1).view(torch.uint8).tolist())
        return found

    return run


def numbers(generator: torch.Generator, count: int, kind: str, dtype: torch.dtype) -> torch.Tensor:
    """Tensors of a kind: of all sizes, of few values, with what is odd among numbers."""
    values = torch.randn(count, generator=generator)
    if kind == "few":
        values = (values * 2).round() / 4
    if kind == "odd":
        odd = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-41, 3e38, -1e-8])
        values = torch.where(values > 0.5, odd[torch.randint(8, (count,), generator=generator)], values)
    return values.to(dtype)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None, suppress_health_check=FIXTURES)
@given(
    count=st.integers(0, 3000),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["plain", "few", "odd"]),
    read=st.sampled_from(DTYPES),
    written=st.sampled_from(DTYPES),
    switches=st.tuples(st.booleans(), st.booleans()),
    density=st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.8125, 1.0]),
    elements=st.sampled_from([100, 1000, 1 << 16]),
)
def test_every_method_gives_the_same_bytes_with_and_without_them(
    stored, both, method, count, seed, kind, read, written, switches, density, elements
):
    generator = torch.Generator().manual_seed(seed)
    base, *others = [stored(numbers(generator, count, kind, read)) for _ in range(4)]
    normalize, rescale = switches
    shared: dict[str, object] = {"normalize": normalize, "rescale": rescale, "lambda_": 0.7}
    if method == "slerp":
        task = task_of(method, others[:1], base, dtype=written, t=0.3)
    elif method == "linear":
        each = [{"weight": weight} for weight in (0.3, -0.2, 1.1)]
        task = task_of(method, others, None, each, written, normalize=normalize)
    else:
        each = [{"weight": weight, "density": density} for weight in (0.3, -0.2, 1.1)]
        task = task_of(method, others, base, each, written, **shared)
    fast, slow = both(task, block_elements=elements)
    assert fast == slow


@pytest.mark.parametrize("method", ["ties", "dare_ties"])
def test_they_agree_on_tensors_that_are_sampled_and_span_many_blocks(stored, both, method):
    generator = torch.Generator().manual_seed(1)
    base, *others = [stored(numbers(generator, 300_000, "plain", torch.bfloat16)) for _ in range(3)]
    each = [{"weight": 0.6, "density": 0.43}] * 2
    fast, slow = both(task_of(method, others, base, each, torch.bfloat16, rescale=True), threads=2)
    assert fast == slow


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["plain", "few", "odd"])
def test_they_agree_on_votes_of_few_and_of_many(stored, both, number, kind):
    generator = torch.Generator().manual_seed(number)
    base, *others = [stored(numbers(generator, 2_000, kind, torch.bfloat16)) for _ in range(number + 1)]
    each = [{"weight": 0.4 - 0.3 * place, "density": (0.5, 0.3)[place % 2]} for place in range(number)]
    fast, slow = both(task_of("dare_ties", others, base, each, torch.bfloat16, lambda_=0.7))
    assert fast == slow


def test_a_library_of_another_kind_is_not_used(tmp_path):
    (tmp_path / "kernels.so").write_bytes(b"\x7fELF and nothing else")
    assert native.load(tmp_path / "kernels.so") is None


# Of one, two, four, eight and more binary digits.
PROBABILITIES = [0.5, 0.75, 0.3125, 0.28125, 0.1, 1 / 3, 2.0**-9, 1 - 2.0**-9]


class TestPhilox:
    # kat_vectors of Random123 1.14: counter, key and result of philox 4x64-10.
    VECTORS = (
        (0, 0, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        (
            (1 << 256) - 1,
            (1 << 128) - 1,
            "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
        ),
    )

    @pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
    def test_the_words_are_those_of_the_paper(self, counter, key, expected):
        found = Stream(key).words(4 * counter, 4)
        assert [f"{word:016x}" for word in found.tolist()] == expected.split()

    @settings(max_examples=60, deadline=None)
    @given(
        start=st.integers(0, 200_000),
        size=st.integers(0, 5000),
        cut=st.integers(0, 5000),
        probability=st.sampled_from(PROBABILITIES),
    )
    def test_an_element_draws_the_same_wherever_a_block_begins(self, start, size, cut, probability):
        stream = Stream.of(7, "w", 1)
        whole = stream.keeps(0, start + size, probability)[start:]
        assert stream.keeps(start, start + size, probability).tolist() == whole.tolist()
        cut = min(cut, size)
        drawn = stream.uniform(start, start + size)
        assert drawn[cut:].tolist() == stream.uniform(start + cut, start + size).tolist()
        assert ((drawn >= 0) & (drawn < 1)).all()

    @pytest.mark.parametrize("probability", PROBABILITIES)
    def test_as_many_are_kept_as_the_probability_says(self, probability):
        count = 1 << 20
        kept = int(Stream.of(0, "w", 0).keeps(0, count, probability).sum())
        assert abs(kept - probability * count) < 5 * (probability * (1 - probability) * count) ** 0.5

    @pytest.mark.parametrize(("probability", "width", "whole"), [(0.5, 1, 1), (0.75, 2, 3), (0.3125, 4, 5)])
    def test_an_element_draws_as_many_bits_as_its_probability_has(self, probability, width, whole):
        stream = Stream.of(0, "w", 0)
        (word,) = stream.words(0, 1).tolist()
        drawn = [word >> (width * place) & ((1 << width) - 1) for place in range(64 // width)]
        assert stream.keeps(0, 64 // width, probability).tolist() == [each < whole for each in drawn]

    def test_seeds_tensors_and_inputs_have_streams_of_their_own(self):
        drawn = {
            Stream.of(seed, tensor, number).words(0, 1)[0]
            for seed in (0, 1)
            for tensor in ("a", "b")
            for number in (0, 1)
        }
        assert len(drawn) == 8
