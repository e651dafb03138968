"""What `export.aoti_cuda` delivers against torch.compile, eager torch and transformers, on one GPU.

    python tests/bench/bench_cuda.py make DIR [--layers N] [--hidden N] [--vocabulary N]
    python tests/bench/bench_cuda.py export MODEL DIR [--set NAME=VALUE ...]
    python tests/bench/bench_cuda.py packages DIR
    python tests/bench/bench_cuda.py time ENGINE DIR [--batch N] [--prompt N] [--tokens N]
    python tests/bench/bench_cuda.py profile ENGINE DIR [--batch N] [--prompt N]

`make` writes a Llama with random weights in bfloat16.  `export` runs the stage; `packages` compiles what was
exported with engine="compile", so that both can be warmed up side by side.
`time` prints a line: a prefill of the prompt and the steps after it, by the wall clock from ids on the host
to logits on the host, and by the events of the device; tokens a second of all rows; the most memory that the
device held. ENGINE: aoti (what is delivered), aoti-plain (the same without CUDA graphs), compile
(torch.compile of the same programs, with CUDA graphs), eager, transformers (its own model, bfloat16, sdpa, a
dynamic cache), transformers-compile (its model compiled, a static cache). The first passes are not counted.
With --together N, a row waits (--wait seconds at most) until N of them are warm, and is timed alone.
`profile` prints the kernels in which a prefill and a step spend the device's time.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WARM, PASSES = 3, 10
CHECKPOINT = "checkpoint.txt"


def make(args: argparse.Namespace) -> None:
    """A Llama of about a thousand million parameters, unless it is told other sizes."""
    import torch
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=args.hidden, intermediate_size=4 * args.hidden, num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64, num_key_value_heads=max(1, args.hidden // 256),
        vocab_size=args.vocabulary, max_position_embeddings=4096, tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(args.model, max_shard_size="50GB")
    print(f"{sum(weight.numel() for weight in model.parameters()) / 1e6:.0f} million parameters")


def export(args: argparse.Namespace) -> None:
    """The stage alone, as a run would call it."""
    from ingot.artifacts.manifest import Artifact, ArtifactRecord
    from ingot.artifacts.schema import build
    from ingot.artifacts.store import Store
    from ingot.stages import base

    found = base.get("export.aoti_cuda")
    values = {key: json.loads(value) for key, _, value in (item.partition("=") for item in args.set)}
    started = time.perf_counter()
    with Store.open(args.directory / "store").outbox() as output:
        source = Artifact("", ArtifactRecord("checkpoint", (), {}), args.model)
        params = build(found.params, values, prefix="export")
        found.run(
            base.Context(params, {"model": source}, output, args.directory, 0, 8, lambda *_: None, print)
        )
        output.payload.rename(args.directory / "artifact")
    (args.directory / CHECKPOINT).write_text(str(args.model))
    print(f"exported in {time.perf_counter() - started:.1f} s")


def packages(args: argparse.Namespace) -> None:
    """Compiles the packages of what was exported for another engine."""
    from ingot.targets.runtimes.aoti_about import read_about
    from ingot.targets.runtimes.program import COMPILED, compile_packages

    started, path = time.perf_counter(), args.directory / "artifact"
    about = read_about(path)
    compile_packages(path, about, str(about["device"]), path / COMPILED)
    print(f"packages compiled in {time.perf_counter() - started:.1f} s")


class Ours:
    """A session of ours; a pass is a prefill and steps."""

    def __init__(self, args: argparse.Namespace) -> None:
        from ingot.targets.runtimes import aoti

        engine = args.engine.removesuffix("-plain")
        self.session = aoti.open(args.directory / "artifact", engine=engine)
        self.session._about["cuda_graphs"] = not args.engine.endswith("-plain")
        self.vocabulary = self.session.info.vocabulary

    def prefill(self, ids: Any) -> Any:
        return self.session.step(ids, logits_from=-1)[1]

    def step(self, ids: Any, past: Any) -> Any:
        return self.session.step(ids, None, past)[1]

    @property
    def device_ms(self) -> float | None:
        return getattr(self.session, "device_ms", None)


class Theirs:
    """transformers' own model, as its documentation runs it; compiled, with its static cache."""

    device_ms = None

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        import transformers

        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        directory = (args.directory / CHECKPOINT).read_text()
        model = transformers.AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.bfloat16, attn_implementation="sdpa"
        )
        self.model = model.to(self.device).eval()
        self.vocabulary = self.model.config.vocab_size
        self.length = args.prompt + args.tokens + 8
        self.is_compiled = args.engine.endswith("compile")
        self.run: Callable[..., Any] = self.model
        self.cache: Any = None
        if self.is_compiled:
            self.run = torch.compile(self.model, mode="reduce-overhead", fullgraph=False)

    def prefill(self, ids: Any) -> Any:
        import torch
        import transformers

        if self.is_compiled and self.cache is None:
            self.cache = transformers.StaticCache(config=self.model.config, max_cache_len=self.length)
        elif self.is_compiled:
            # What was made in inference mode can be written in it alone.
            with torch.inference_mode():
                self.cache.reset()
        return self._forward(self.model, ids, self.cache, 0)

    def step(self, ids: Any, past: Any) -> Any:
        return self._forward(self.run, ids, past[0], past[1])

    def _forward(self, run: Callable[..., Any], ids: Any, cache: Any, seen: int) -> Any:
        import torch

        given = torch.from_numpy(ids).to(self.device)
        place = torch.arange(seen, seen + given.shape[1], device=self.device)
        with torch.inference_mode():
            found = run(
                input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1,
                position_ids=place[None].expand(len(given), -1), cache_position=place,
            )  # fmt: skip
            found.logits.float().cpu()
        return found.past_key_values, seen + given.shape[1]


def time_engine(args: argparse.Namespace) -> None:
    """Prints one line of the table."""
    import torch

    started = time.perf_counter()
    side = (Theirs if args.engine.startswith("transformers") else Ours)(args)
    random = np.random.default_rng(0)
    walls: dict[str, list[float]] = {"prefill": [], "decode": []}
    events: dict[str, list[float]] = {"prefill": [], "decode": []}
    ready, turn = None, contextlib.ExitStack()
    for number in range(WARM + PASSES):
        if number == WARM:
            turn.enter_context(_turn(args))
        prompt = random.integers(0, side.vocabulary, (args.batch, args.prompt))
        past = _timed(walls, events, "prefill", side, lambda prompt=prompt: side.prefill(prompt))
        for ids in random.integers(0, side.vocabulary, (args.tokens, args.batch, 1)):
            past = _timed(walls, events, "decode", side, lambda ids=ids, past=past: side.step(ids, past))
        ready = ready or time.perf_counter() - started
        if number < WARM:
            for found in (*walls.values(), *events.values()):
                found.clear()
    turn.close()
    p50 = {name: float(np.median(found)) for name, found in walls.items()}
    p95, p99 = np.quantile(walls["decode"], (0.95, 0.99))
    device = {name: f"{np.median(found):8.3f}" if found else "       –" for name, found in events.items()}
    gigabytes = torch.cuda.max_memory_reserved() / 1e9
    print(
        f"{args.engine:<22}{args.batch:>5}{args.prompt:>7} {p50['prefill']:>9.2f} {device['prefill']} "
        f"{p50['decode']:>8.3f} {p95:>8.3f} {p99:>8.3f} {device['decode']} "
        f"{args.batch / p50['decode'] * 1e3:>10.0f} {gigabytes:>7.2f} {ready:>8.1f}",
        flush=True,
    )


@contextlib.contextmanager
def _turn(args: argparse.Namespace) -> Iterator[None]:
    """Waits until as many as are started together are warm, a limit apart, and times one after another."""
    if args.together is None:
        yield
        return
    place, limit = args.directory / "together", time.monotonic() + args.wait
    place.mkdir(exist_ok=True)
    (place / str(os.getpid())).touch()
    while len(list(place.glob("[0-9]*"))) < args.together and time.monotonic() < limit:
        time.sleep(0.05)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def profile(args: argparse.Namespace) -> None:
    """Prints which kernels a prefill and a step without graphs spend the device's time in."""
    import torch
    from torch.profiler import ProfilerActivity

    args.engine, kinds = f"{args.engine}-plain", [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(ProfilerActivity.CUDA)
    side = Ours(args)
    prompt = np.random.default_rng(0).integers(0, side.vocabulary, (args.batch, args.prompt))
    past, ids = side.prefill(prompt), prompt[:, :1]
    side.step(ids, past)
    for name, run in (
        ("prefill", lambda: side.prefill(prompt)),
        ("decode", lambda: side.step(ids, side.session.step(prompt, logits_from=-1)[1])),
    ):
        with torch.profiler.profile(activities=kinds) as found:
            run()
        print(f"{args.engine} {name}", flush=True)
        events = [
            (each.self_device_time_total or each.self_cpu_time_total, each.count, each.key)
            for each in found.key_averages()
            if str(each.device_type).endswith("CUDA") or len(kinds) == 1
        ]
        for microseconds, count, key in sorted(events, reverse=True)[:12]:
            print(f"{microseconds / 1e3:9.3f} ms {count:5} x {key[:110]}")


def _timed(
    walls: dict[str, list[float]], events: dict[str, list[float]], name: str, side: Any, run: Any
) -> Any:
    started = time.perf_counter()
    found = run()
    walls[name].append((time.perf_counter() - started) * 1e3)
    if side.device_ms is not None:
        events[name].append(side.device_ms)
    return found


HEADER = (
    "engine                batch prompt   prefill   device   decode      p95      p99   device   tokens/s"
    "      GB  ready s"
)


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True)
    parts = commands.add_parser("make")
    parts.add_argument("model", type=Path)
    for name, value in (("layers", 16), ("hidden", 2048), ("vocabulary", 32000)):
        parts.add_argument(f"--{name}", type=int, default=value)
    parts.set_defaults(run=make)
    parts = commands.add_parser("export")
    parts.add_argument("model", type=Path)
    parts.add_argument("directory", type=Path)
    parts.add_argument("--set", nargs="*", default=[])
    parts.set_defaults(run=export)
    parts = commands.add_parser("packages")
    parts.add_argument("directory", type=Path)
    parts.set_defaults(run=packages)
    parts = commands.add_parser("time")
    parts.add_argument("engine")
    parts.add_argument("directory", type=Path)
    for name, value in (("batch", 1), ("prompt", 512), ("tokens", 64)):
        parts.add_argument(f"--{name}", type=int, default=value)
    parts.add_argument("--together", type=int)
    parts.add_argument("--wait", type=float, default=60)
    parts.set_defaults(run=time_engine)
    parts = commands.add_parser("profile")
    parts.add_argument("engine")
    parts.add_argument("directory", type=Path)
    for name, value in (("batch", 1), ("prompt", 512)):
        parts.add_argument(f"--{name}", type=int, default=value)
    parts.set_defaults(run=profile)
    commands.add_parser("header").set_defaults(run=lambda _args: print(HEADER))
    args = parser.parse_args()
    args.run(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
