"""The texts of a training as windows: packed documents, or chats of which the responses count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from ...artifacts.digest import digest_bytes
from ...artifacts.errors import DataError
from ..model.chat import renderer
from ..model.checkpoint import settings
from ..model.pairs import of_lines, of_text
from ..model.text import Chat, Tokens, as_text, parse_documents, parse_lines, parse_pairs
from ..model.tokens import encode, load_tokenizer, wrapped_windows
from .objective import Batch

if TYPE_CHECKING:
    from collections.abc import Callable

    from tokenizers import Tokenizer

    from ..model.chat import Render
    from ..model.checkpoint import Checkpoint
    from .params import TrainParams

    Ids = npt.NDArray[np.int32]
    Flags = npt.NDArray[np.bool_]

# The share of the documents that choose where no text is named for it.
HELD_OUT = 10
ASSISTANT = "assistant"


@dataclass(frozen=True, eq=False)
class Windows:
    """ids: int32 [windows, width], zero behind each one's length.  predicted: bool [windows, width], which
    tokens are targets.  lengths: int64 [windows].  sources: int32 [windows, source], what each is predicted
    from where there is an encoder, zero behind each one's length; source_lengths: int64 [windows].
    """

    ids: Ids
    predicted: Flags
    lengths: npt.NDArray[np.int64]
    sources: Ids | None = None
    source_lengths: npt.NDArray[np.int64] | None = None

    @property
    def count(self) -> int:
        """How many windows there are."""
        return len(self.ids)

    def targets(self, which: npt.NDArray[np.int64]) -> int:
        """How many tokens of some windows count."""
        return int(self.predicted[which].sum())

    def batch(self, which: npt.NDArray[np.int64], device: torch.device) -> Batch:
        """Some of the windows, cut to the longest of them."""
        lengths = self.lengths[which]
        width = int(lengths.max())
        attended = None
        if int(lengths.min()) < width:
            attended = torch.from_numpy(np.arange(width) < lengths[:, None]).to(device)
        sources = read = None
        if self.sources is not None and self.source_lengths is not None:
            given = self.source_lengths[which]
            longest = int(given.max())
            sources = torch.from_numpy(self.sources[which, :longest].astype(np.int64)).to(device)
            read = torch.from_numpy(np.arange(longest) < given[:, None]).to(device)
        return Batch(
            torch.from_numpy(self.ids[which, :width].astype(np.int64)).to(device),
            torch.from_numpy(self.predicted[which, :width]).to(device),
            attended,
            torch.from_numpy(which),
            sources,
            read,
        )

    def some(self, most: int) -> Windows:
        """At most so many of them, spread evenly."""
        if self.count <= most:
            return self
        return self.at(np.arange(most) * self.count // most)

    def at(self, which: npt.NDArray[np.int64] | slice) -> Windows:
        """Those windows alone."""
        return Windows(
            self.ids[which],
            self.predicted[which],
            self.lengths[which],
            None if self.sources is None else self.sources[which],
            None if self.source_lengths is None else self.source_lengths[which],
        )


@dataclass(frozen=True, eq=False)
class Corpus:
    """The windows that train, and those that choose. digest: of both."""

    training: Windows
    selection: Windows

    @property
    def digest(self) -> str:
        """Of every token, and of which are targets."""
        parts = []
        for each in (self.training, self.selection):
            parts += [str(each.ids.shape).encode(), each.ids.tobytes(), each.predicted.tobytes()]
            if each.sources is not None:
                parts += [str(each.sources.shape).encode(), each.sources.tobytes()]
        return digest_bytes(b"|".join(parts))


def read_corpus(source: Checkpoint, params: TrainParams, note: Callable[[str], None]) -> Corpus:
    """The texts that the parameters name, in the tokens of a checkpoint.

    Documents are joined, with the token that ends a text between them, and cut into windows; a chat is a
    window of its own, of which the responses count. For an encoder-decoder, each pair of source and target is
    a window, or the halves of each piece of a text. Raises DataError for a text that cannot be read, holds
    nothing or too little, and for tokens outside the vocabulary.
    """
    reader = _Reader(source, params.window, note)
    training = reader.read(Path(params.text), "training")
    if params.chooser is not None:
        chosen = reader.windows(reader.read(Path(params.chooser), "selection"), params.chooser, "selection")
        return Corpus(
            reader.windows(training, params.text, "training"), chosen.some(params.selection_windows)
        )
    kept, held = _divided(training)
    if held:
        found = tuple(reader.windows(part, params.text, "training") for part in (kept, held))
    else:
        found = _divided_windows(reader.windows(training, params.text, "training"), params.text)
    return Corpus(found[0], found[1].some(params.selection_windows))


@dataclass(frozen=True)
class _Document:
    """ids: its tokens.  responses: which of them count; None: it is packed with others, and all do.

    source: what it is predicted from, of an encoder-decoder.
    """

    ids: Sequence[int]
    responses: Sequence[bool] | None = None
    source: Sequence[int] = ()


class _Reader:
    def __init__(self, source: Checkpoint, window: int, note: Callable[[str], None]) -> None:
        self._model = source.architecture
        self._directory = source.directory
        self._tokenizer = load_tokenizer(source.directory)
        self._width = min(window, self._model.context)
        self._note = note
        end = settings(source.directory).get("eos_token_id")
        self._end = end[0] if isinstance(end, list) and end else end if isinstance(end, int) else None

    def read(self, path: Path, kind: str) -> list[_Document]:
        """The documents of a file in tokens."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"the {kind} text cannot be read: {error.strerror}", where=str(path)) from None
        if self._model.task == "encoder":
            texts = parse_documents(data, str(path))
            found = [wrapped_windows(self._tokenizer, [text], self._width) for text in texts]
            pieces = [
                each.ids[start : start + length].tolist()
                for each in found
                for start, length in zip(each.starts, each.lengths, strict=True)
            ]
            return [_Document(piece, [True] * len(piece)) for piece in pieces]
        if self._model.task == "seq2seq-lm":
            return self._pairs(data, str(path))
        lines = parse_lines(data, str(path))
        if not any(isinstance(line, Chat | Tokens) for line in lines):
            return [_Document(ids) for ids in encode(self._tokenizer, parse_documents(data, str(path)))]
        render = renderer(self._directory) if any(isinstance(line, Chat) for line in lines) else None
        found_lines = []
        for line in lines:
            if isinstance(line, Tokens):
                found_lines.append(_Document(line.ids))
            elif isinstance(line, Chat) and render is not None:
                found_lines.append(_chat(self._tokenizer, render, line))
            else:
                found_lines.append(_Document(encode(self._tokenizer, [as_text(line)])[0]))
        return found_lines

    def _pairs(self, data: bytes, where: str) -> list[_Document]:
        """Targets with their sources, as `stages/model/pairs.py` has them."""
        model = self._model
        start, context = model.decoder_start or 0, model.context
        if model.encoder:
            context = min(context, model.encoder.context)
        if lines := parse_pairs(data, where):
            found = of_lines(self._tokenizer, lines, start, self._width)
        else:
            documents = parse_documents(data, where)
            found = of_text(self._tokenizer, documents, start, self._width, context)
        sources, targets = (
            [part.tolist() for part in np.split(each.ids, each.starts[1:])]
            for each in (found.sources, found.targets)
        )
        return [
            _Document(target, [True] * len(target), source)
            for target, source in zip(targets, sources, strict=True)
        ]

    def windows(self, documents: Sequence[_Document], where: str, kind: str) -> Windows:
        """Documents as windows: packed ones first, then those that stand alone."""
        width = self._width
        stream: list[int] = []
        for document in documents:
            if document.responses is None:
                stream += document.ids
                if self._end is not None and (not document.ids or document.ids[-1] != self._end):
                    stream.append(self._end)
        whole = len(stream) // width
        cut = [stream[at * width : (at + 1) * width] for at in range(whole)]
        rows: list[_Document] = [_Document(piece, [True] * width) for piece in cut]
        if not whole and len(stream) > 1:
            rows = [_Document(stream, [True] * len(stream))]
        lost = 0
        for document in documents:
            if document.responses is not None:
                ids, counted = list(document.ids[:width]), list(document.responses[:width])
                if any(counted[1:]):
                    rows.append(_Document(ids, counted, document.source))
                else:
                    lost += 1
        if lost:
            self._note(
                f"{lost} of {len(documents)} documents of the {kind} text have nothing to learn from within "
                f"{width} tokens, and are left out"
            )
        if not rows:
            raise DataError(
                f"the {kind} text holds nothing to predict: no window has two tokens of which one counts",
                where=where,
                fix="give a longer text; in chats, the messages of the assistant count",
            )
        return self._filled(rows, where)

    def _filled(self, rows: Sequence[_Document], where: str) -> Windows:
        width = max(len(row.ids) for row in rows)
        filled = Windows(
            np.zeros((len(rows), width), np.int32),
            np.zeros((len(rows), width), np.bool_),
            np.array([len(row.ids) for row in rows], np.int64),
        )
        for number, row in enumerate(rows):
            filled.ids[number, : len(row.ids)] = row.ids
            filled.predicted[number, : len(row.ids)] = row.responses or False
        filled.predicted[:, 0] = False
        highest = int(filled.ids.max())
        if any(row.source for row in rows):
            lengths = np.array([len(row.source) for row in rows], np.int64)
            sources = np.zeros((len(rows), int(lengths.max())), np.int32)
            for number, row in enumerate(rows):
                sources[number, : len(row.source)] = row.source
            highest = max(highest, int(sources.max()))
            filled = replace(filled, sources=sources, source_lengths=lengths)
        if highest >= self._model.vocabulary:
            raise DataError(
                f"token id {highest} is outside the model's vocabulary of {self._model.vocabulary}",
                where=where,
                fix="use the tokenizer that belongs to the model",
            )
        return filled


def _chat(tokenizer: Tokenizer, render: Render, chat: Chat) -> _Document:
    """A chat in tokens, with those that the assistant wrote and the one that ends its turn marked."""
    text = render(chat.messages, chat.where)
    spans = []
    for number, message in enumerate(chat.messages):
        if message["role"] != ASSISTANT:
            continue
        before = render(chat.messages[:number], chat.where, opening=True)
        behind = render(chat.messages[: number + 1], chat.where)
        if not (text.startswith(behind) and behind.startswith(before)):
            raise DataError(
                "the chat template writes messages differently when others follow them, so that responses "
                "cannot be told apart",
                where=chat.where,
                fix="split the chat behind that response, or give its tokens as input_ids",
            )
        spans.append((len(before), len(behind)))
    found = tokenizer.encode(text, add_special_tokens=False)
    responses = [any(first <= start < last for first, last in spans) for start, _ in found.offsets]
    return _Document(found.ids, responses)


def _divided(documents: Sequence[_Document]) -> tuple[Sequence[_Document], Sequence[_Document]]:
    """All but the last tenth of the documents, and that; nothing to choose by where there is one alone."""
    if len(documents) < 2:
        return documents, ()
    held = max(1, len(documents) // HELD_OUT)
    return documents[:-held], documents[-held:]


def _divided_windows(windows: Windows, where: str) -> tuple[Windows, Windows]:
    """The same of the windows of an undivided text."""
    if windows.count < 2:
        raise DataError(
            "the training text has one window alone, and none is left to choose by",
            where=where,
            fix="give a longer text, or name a selection_text",
        )
    held = max(1, windows.count // HELD_OUT)
    return windows.at(slice(None, -held)), windows.at(slice(-held, None))
