"""Make the bundled calibration and evaluation texts from WikiText-2, one `{"text": ...}` document a line.

    python -m ingot.pipeline.demo.make_data --train TRAIN.txt --valid VALID.txt --tokenizer FILE --out DIR

Evaluation documents come from the validation split, calibration documents from the training split, and a text
that occurs in both is refused. Many short documents say more about a model than few long ones when intervals
resample documents, so every article gives at most its beginning, up to a paragraph's end.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .train_model import articles

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DOCUMENT_TOKENS = 1280
TOTAL_TOKENS = 64_000
SHORTEST_TOKENS = 256


def beginning(article: str, tokenizer: Tokenizer, limit: int) -> tuple[str, int]:
    """Return the article's leading paragraphs that fit in `limit` tokens together, and their tokens."""
    paragraphs = article.split("\n")
    kept, total = 0, 0
    for paragraph in paragraphs:
        tokens = len(tokenizer.encode(paragraph + "\n", add_special_tokens=False).ids)
        if total + tokens > limit:
            break
        kept, total = kept + 1, total + tokens
    return "\n".join(paragraphs[:kept]), total


def choose(candidates: list[str], tokenizer: Tokenizer) -> list[str]:
    """Return beginnings of articles, spread evenly over the list, of about TOTAL_TOKENS tokens together."""
    cut = [beginning(article, tokenizer, DOCUMENT_TOKENS) for article in candidates]
    usable = [(text, tokens) for text, tokens in cut if tokens >= SHORTEST_TOKENS]
    mean_tokens = sum(tokens for _, tokens in usable) / len(usable)
    wanted = min(len(usable), round(TOTAL_TOKENS / mean_tokens))
    return [usable[index * len(usable) // wanted][0] for index in range(wanted)]


def write(documents: list[str], tokenizer: Tokenizer, path: Path) -> None:
    """Write the documents as JSON lines and print how many tokens of the model they are."""
    lines = [json.dumps({"text": document}, ensure_ascii=False) + "\n" for document in documents]
    path.write_text("".join(lines), encoding="utf-8")
    tokens = sum(len(encoded.ids) for encoded in tokenizer.encode_batch(documents, add_special_tokens=False))
    print(f"{path.name}: {len(documents)} documents, {tokens} tokens")


def main() -> None:
    """Read the arguments and write calibration.jsonl and evaluation.jsonl."""
    parser = argparse.ArgumentParser(description="Make Ingot's bundled calibration and evaluation texts.")
    parser.add_argument("--train", type=Path, required=True, help="WikiText-2's training split")
    parser.add_argument("--valid", type=Path, required=True, help="its validation split")
    parser.add_argument("--tokenizer", type=Path, required=True, help="tokenizer.json of the bundled model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two files")
    arguments = parser.parse_args()

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    calibration = choose(articles(arguments.train.read_text(encoding="utf-8")), tokenizer)
    evaluation = choose(articles(arguments.valid.read_text(encoding="utf-8")), tokenizer)
    shared = set(calibration) & set(evaluation)
    if shared:
        first = min(shared).splitlines()[0]
        parser.error(f"{len(shared)} documents are in both splits, the first is {first!r}; use other texts")
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(calibration, tokenizer, arguments.out / "calibration.jsonl")
    write(evaluation, tokenizer, arguments.out / "evaluation.jsonl")


if __name__ == "__main__":
    main()
