"""Networks outside the table, as far as their config.json and the list of transformers' classes tell.

Such a model is loaded by transformers, whose code is installed here, never by code of its own. Planning asks
for it too, so that list is read from the text of its module: importing it takes seconds, and torch.
"""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ....artifacts.errors import IntakeError, RequirementError, nearest
from .outline import Outline

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from .architecture import Task
    from .config import ConfigReader

CLASSES_FILE = ("models", "auto", "modeling_auto.py")
# Which of transformers' tables holds the classes of a task; an encoder's trained heads stay behind.
TABLES: Mapping[str, Task] = {
    "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES": "causal-lm",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES": "seq2seq-lm",
    "MODEL_MAPPING_NAMES": "encoder",
    "MODEL_FOR_MASKED_LM_MAPPING_NAMES": "encoder",
    "MODEL_FOR_PRETRAINING_MAPPING_NAMES": "encoder",
}
_ENTRY = re.compile(r"""^\s+\(\s*"([^"]+)",\s*(.+)\),(?:\s*#.*)?$""", re.MULTILINE)
_NAME = re.compile(r'"([^"]+)"')

# What families call the same things.
HIDDEN = ("hidden_size", "d_model", "n_embd", "n_embed", "emb_dim", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers", *LAYERS)
VOCABULARY = ("vocab_size", "n_words")
CONTEXT = (
    "max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx",
)  # fmt: skip
SOURCE_CONTEXT = ("max_encoder_position_embeddings", *CONTEXT)
TARGET_CONTEXT = ("max_decoder_position_embeddings", *CONTEXT)


def outline_of(reader: ConfigReader, known: Collection[str], most_tokens: int | None) -> Outline:
    """The outline of a network that the table does not hold.

    known: what it does hold.  most_tokens: the longest sequence that the tokenizer's settings give, None when
    they give none.  Raises IntakeError for a `model_type` that transformers does not have either, for a class
    that is no language model and no encoder, and for a config without a size.
    """
    model_type, classes = reader.config.get("model_type"), transformers_classes()
    if not isinstance(model_type, str) or not any(model_type in table for table in classes.values()):
        guess = nearest(str(model_type), known)
        hint = f"did you mean {guess}? " if guess else ""
        raise IntakeError(
            f"model_type {model_type!r} is not a known architecture",
            where=reader.where,
            fix=f"{hint}Ingot's own are {', '.join(known)}; beside them it takes those of the transformers "
            "that is installed here, which has none of that name",
        )
    task = _task(reader, model_type, classes)
    is_pair = task == "seq2seq-lm"
    if bool(reader.config.get("is_encoder_decoder")) != is_pair:
        raise reader.error("is_encoder_decoder", f"does not go with a model of the task {task}")
    return Outline(
        model_type,
        task,
        hidden=_size(reader, HIDDEN),
        vocabulary=_size(reader, VOCABULARY),
        context=_context(reader, TARGET_CONTEXT if is_pair else CONTEXT, most_tokens),
        layers=_size(reader, DECODER_LAYERS if is_pair else LAYERS),
        tied=reader.flag("tie_word_embeddings", task != "encoder"),
        source_context=_context(reader, SOURCE_CONTEXT, most_tokens) if is_pair else None,
        decoder_start=reader.token("decoder_start_token_id") if is_pair else None,
        is_known=False,
    )


@functools.cache
def transformers_classes() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """Names of classes by `model_type`, by table of the transformers that is installed.

    Raises RequirementError when it is missing, or keeps its tables in another form than expected.
    """
    found = importlib.util.find_spec("transformers")
    if found is None or not found.submodule_search_locations:
        raise RequirementError("transformers is missing", fix="pip install transformers")
    path = Path(found.submodule_search_locations[0], *CLASSES_FILE)
    try:
        text = path.read_text("utf-8")
    except OSError:
        text = ""
    tables = {}
    for name in TABLES:
        body = re.search(rf"^{name} = OrderedDict\(\n(.*?)^\)", text, re.MULTILINE | re.DOTALL)
        entries = _ENTRY.findall(body[1]) if body else []
        if not entries:
            raise RequirementError(
                f"the installed transformers does not list its models as expected: no {name}",
                where=str(path),
                fix="install a version within the range that Ingot declares: pip install -U ingot",
            )
        tables[name] = {model_type: tuple(_NAME.findall(names)) for model_type, names in entries}
    return tables


def _task(
    reader: ConfigReader, model_type: str, classes: Mapping[str, Mapping[str, tuple[str, ...]]]
) -> Task:
    """The task of the class in `architectures`, which decides which heads are loaded."""
    named = reader.config.get("architectures")
    name = named[0] if isinstance(named, list) and named else None
    for table, task in TABLES.items():
        if name in classes[table].get(model_type, ()):
            return task
    valid = [each for table in TABLES for each in classes[table].get(model_type, ())]
    raise reader.error("architectures", f"names none of {', '.join(dict.fromkeys(valid))}")


def _size(reader: ConfigReader, keys: tuple[str, ...]) -> int:
    key = next((key for key in keys if reader.config.get(key) is not None), keys[0])
    return reader.integer(key)


def _context(reader: ConfigReader, keys: tuple[str, ...], most_tokens: int | None) -> int:
    """The longest sequence that the config gives, or a shorter one that the tokenizer's settings give:
    positions of some families begin behind an offset, which their config counts and their tokenizer does not.
    """
    given = any(reader.config.get(key) is not None for key in keys)
    if not given and most_tokens is None:
        raise IntakeError(
            f"the longest sequence is not given, as {keys[0]} or otherwise",
            where=reader.where,
            fix=f"add {keys[0]}, the most tokens that the model is meant for, to config.json",
        )
    sizes = [_size(reader, keys)] if given else []
    return min([*sizes, *([most_tokens] if most_tokens else [])])
