"""`ingot generate`: run a delivery, or an artifact of the store, through its runtime."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from ...artifacts.errors import InputError
from ..metrics import ENCODER
from .options import json_option, store_option

if TYPE_CHECKING:
    from pathlib import Path


@click.command("generate", short_help="Continue a prompt.")
@click.argument("model")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT...")
@click.option(
    "--max-new-tokens", default=64, show_default=True, type=click.IntRange(1), help="Tokens to add at most."
)
@click.option(
    "--temperature", default=0.0, show_default=True, type=click.FloatRange(0), help="0 takes the likeliest."
)
@click.option(
    "--top-k", default=0, show_default=True, type=click.IntRange(0), help="Only the k likeliest; 0 is all."
)
@click.option(
    "--top-p", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="Only this much probability."
)
@click.option("--seed", default=0, show_default=True, help="Of the random draws.")
@click.option("--threads", type=click.IntRange(1), help="Compute threads; all cores when not given.")
@store_option
@json_option
def generate_command(
    model: str,
    prompts: tuple[str, ...],
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    threads: int | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Continue each PROMPT with MODEL: a delivery's directory, or the digest of an artifact."""
    from ...stages.model.tokenizer import checked_tokenizer
    from ...targets.runtimes.base import Sampling
    from ...targets.runtimes.opening import open_session, read_session
    from ..locate import model_directory

    directory = model_directory(model, store)
    # A delivery may be anybody's: its tokenizer has to pass what intake asks of a checkpoint's.
    tokenizer = checked_tokenizer(directory, read_session(directory)["vocabulary"])
    session = open_session(directory, threads=threads)
    try:
        if session.info.task == ENCODER:
            raise InputError(
                f"{model} is an encoder: it gives hidden states, and continues no text",
                fix="run it as its README.md shows, or generate with a causal language model",
            )
        sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
        started = time.perf_counter()
        tokens = session.generate([tokenizer.encode(prompt).ids for prompt in prompts], sampling)
        seconds = time.perf_counter() - started
    finally:
        session.close()
    texts = [tokenizer.decode(ids) for ids in tokens]
    count = sum(len(ids) for ids in tokens)
    if as_json:
        results = [
            {"prompt": p, "text": t, "tokens": i} for p, t, i in zip(prompts, texts, tokens, strict=True)
        ]
        click.echo(json.dumps({"seconds": seconds, "tokens": count, "results": results}, indent=2))
        return
    for prompt, text in zip(prompts, texts, strict=True):
        click.echo(click.style(prompt, dim=sys.stdout.isatty()) + text)
    click.echo(f"{count} tokens in {seconds:.2f} s, {count / seconds:.1f} tokens/s", err=True)
