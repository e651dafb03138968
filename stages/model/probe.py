"""The process that tries a tokenizer: `python -m ingot.stages.model.probe tokenizer.json`, under limits.

A tokenizer's patterns run in native code that cannot be interrupted, and panics where Oniguruma gives up. So
one is read and tried here first: on runs of single letters, on words, and on long lines, which is what slow
patterns are slow on. It answers one line of JSON: {} or {"error": what is wrong}.
"""

from __future__ import annotations

import json
import os
import resource
import string
import sys
from pathlib import Path

CPU_SECONDS = 10
MEMORY_BYTES = 4 << 30
RUN_CHARACTERS = 64
LINE_WORDS = 1500


def main(path: Path) -> int:
    """Tries the tokenizer in a file; the exit status is 0 when it could be tried."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["RAYON_NUM_THREADS"] = "1"
    sys.stdout.write(json.dumps(fault(path)))
    sys.stdout.flush()
    return 0


def fault(path: Path) -> dict[str, str]:
    """What is wrong with a tokenizer, under the key `error`; empty for a sound one."""
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except BaseException as error:  # noqa: BLE001 - the library panics with a BaseException of its own
        version = tokenizers.__version__
        return {"error": f"is not one that the tokenizers library {version} reads: {first_line(error)}"}
    try:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        for text in texts():
            tokenizer.decode(tokenizer.encode(text).ids)
    except BaseException as error:  # noqa: BLE001 - as above
        return {"error": f"fails on plain text: {first_line(error)}"}
    return {}


def texts() -> list[str]:
    """What a tokenizer is tried on."""
    letters = string.ascii_letters + string.digits + string.punctuation + " \n"
    runs = "".join(f"{letter * RUN_CHARACTERS}\x00{letter * RUN_CHARACTERS}!\n" for letter in letters)
    words = " ".join(
        f"word{number} the River-{number % 7} isn't 3,{number:03}." for number in range(LINE_WORDS)
    )
    return [runs, words, "é日本語 " * RUN_CHARACTERS]


def first_line(error: BaseException) -> str:
    """An error's message, in one line."""
    return str(error).strip().partition("\n")[0][:300]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
