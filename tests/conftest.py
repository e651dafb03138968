"""Shared fixtures: tiny random checkpoints made by transformers, with real tokenizers, and an empty store."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Containers often forbid Python to keep what it compiled. Tests start hundreds of processes, and each of them
# would compile all of Ingot that it imports anew, which is a third of what a short command takes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Several workers of pytest share the cores: torch would start as many threads as there are cores in each.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

if TYPE_CHECKING:
    import tokenizers
    import torch
    from ingot.artifacts.manifest import Artifact
    from ingot.artifacts.store import Store
    from ingot.pipeline.events import Emit
    from ingot.pipeline.executor import Ended
    from ingot.pipeline.job import Job
    from ingot.pipeline.ledger import Capacity

VOCABULARY = 320
CONTEXT = 128
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
BOS, EOS, PAD = 0, 1, 2

TRAINING_TEXT = (
    "The river ran past the old mill and the miller's house, and the road ran with the river to the town. ",
    "In the town there was a market, and in the market there was a smith who made nails, hooks and hinges. ",
    "She sold the hinges to the miller, who hung the doors of the mill on them and shut them all winter. ",
    "When the ice went out in April, the water rose 3 feet, then 4; naïve guests wanted a boat — in vain! ",
)

# What `.ci/device` sets: then everything that device tests need must be here.
DEVICE = "DEVICE_TESTS"

SHAPE = {"vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
DECODER = {
    **SHAPE,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
}
GEMMA = {**DECODER, "head_dim": 24, "query_pre_attn_scalar": 20, "sliding_window": 7}
EXPERTS = {
    **DECODER,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "tie_word_embeddings": False,
}
FAMILIES: Mapping[str, tuple[str, str, Mapping[str, object]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "tie_word_embeddings": False}),
    "llama-tied": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**DECODER, "tie_word_embeddings": True}),
    # A head dimension that is not hidden_size / heads, as in the released Qwen3 models.
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, "head_dim": 32, "tie_word_embeddings": True}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {**SHAPE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", DECODER),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**DECODER, "tie_word_embeddings": False}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", {**DECODER, "head_dim": 24}),
    # Caps within the reach of scores and logits, and windows within that of a short text.
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 8.0},
    ),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gpt_neox": (
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {
            **SHAPE,
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        {
            **SHAPE,
            "hidden_size": 64,
            "ffn_dim": 160,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        {**DECODER, "num_local_experts": 4, "tie_word_embeddings": False},
    ),
    # One layer with experts, one without.
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**EXPERTS, "shared_expert_intermediate_size": 48, "mlp_only_layers": [1]},
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**EXPERTS, "head_dim": 32, "norm_topk_prob": True},
    ),
    "bert": (
        "BertModel",
        "BertConfig",
        {
            **SHAPE,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT,
        },
    ),
    # Its positions start behind the id of padding.
    "roberta": (
        "RobertaModel",
        "RobertaConfig",
        {
            **SHAPE,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": CONTEXT + PAD + 1,
            "type_vocab_size": 1,
        },
    ),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {
            **SHAPE,
            "dim": 64,
            "hidden_dim": 128,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {
            **SHAPE,
            "d_model": 64,
            "d_kv": 24,
            "d_ff": 96,
            "num_layers": 3,
            "num_decoder_layers": 2,
            "num_heads": 4,
            # Small, so that short texts reach the buckets of many distances.
            "relative_attention_num_buckets": 12,
            "relative_attention_max_distance": 20,
            "decoder_start_token_id": PAD,
            "n_positions": CONTEXT,
        },
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        {
            **SHAPE,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 128,
            "max_position_embeddings": CONTEXT,
            "decoder_start_token_id": EOS,
            "forced_eos_token_id": None,
        },
    ),
}
ENCODERS = ("bert", "roberta", "distilbert")
PAIRS = ("t5", "bart")
LAYERED = {key: value for key, value in DECODER.items() if key != "num_key_value_heads"}
# Architectures that the table of families does not hold; what each is here for.
OUTSIDE: Mapping[str, tuple[str, str, Mapping[str, object]]] = {
    # Rotates neighbouring features, from a table that is no weight.
    "gptj": (
        "GPTJForCausalLM",
        "GPTJConfig",
        {**SHAPE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "rotary_dim": 8},
    ),
    # One head of keys and values for all queries.
    "falcon": ("FalconForCausalLM", "FalconConfig", {**LAYERED, "multi_query": True, "alibi": False}),
    # Takes no positions: its biases come from the mask.  Its head is the embedding.
    "bloom": ("BloomForCausalLM", "BloomConfig", {**SHAPE, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "cohere": ("CohereForCausalLM", "CohereConfig", {**DECODER, "logit_scale": 0.5}),
    # A mixture of experts.
    "olmoe": (
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {**DECODER, "num_experts": 4, "num_experts_per_tok": 2},
    ),
    # Keys and values of different width.
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        "DeepseekV3Config",
        {
            **DECODER,
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 20,
        },
    ),
    # Keeps no keys and values.
    "openai-gpt": (
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {**SHAPE, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT},
    ),
    # Neither keys nor values but a state, in a loop over the tokens that a trace unrolls.
    "mamba": (
        "MambaForCausalLM",
        "MambaConfig",
        {**SHAPE, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8},
    ),
    "electra": ("ElectraModel", "ElectraConfig", {**LAYERED, "embedding_size": 32}),
    # All layers have the same weights; its pooler is not used.
    "albert": ("AlbertModel", "AlbertConfig", {**LAYERED, "embedding_size": 32}),
    "marian": (
        "MarianMTModel",
        "MarianConfig",
        {
            **SHAPE,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 128,
            "max_position_embeddings": CONTEXT,
            "decoder_start_token_id": EOS,
            "forced_eos_token_id": None,
            "scale_embedding": True,
        },
    ),
}
OUTSIDE_ENCODERS = ("electra", "albert")
OUTSIDE_PAIRS = ("marian",)

TinyCheckpoint = Callable[..., Path]
RunStage = Callable[..., "Artifact"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, visibly, what needs a device or a library that a plain machine lacks, unless it is asked for.

    Tests that look for what they need themselves are left to it.
    """
    if os.environ.get(DEVICE):
        return
    reason = f"needs a device, an emulator or an optional library; .ci/device runs it ({DEVICE}=1)"
    for item in items:
        looks = item.get_closest_marker("skipif") is not None
        if item.get_closest_marker("device") is not None and not looks:
            item.add_marker(pytest.mark.skip(reason=reason))


# The folder whose files share builds, and the order of the rest: the dearest files first, the cheapest last.
TOGETHER = "tests/pipeline/cli/"
FIRST = (TOGETHER, "tests/test_", "tests/pipeline/", "tests/stages/")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hands whole files to the workers, so that what the tests of a file share is made once.

    Returns None, which leaves it to pytest-xdist, where another distribution than its default is asked for.
    """
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return TOGETHER if path.startswith(TOGETHER) else path

        def _assign_work_unit(self, node: Any) -> None:
            def place(scope: str) -> int:
                return next((at for at, first in enumerate(FIRST) if scope.startswith(first)), len(FIRST))

            self.workqueue.move_to_end(min(self.workqueue, key=place), last=False)
            super()._assign_work_unit(node)

    return ByFile(config, log)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE with 320 tokens: 4 special ones, 256 bytes and 60 merges."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: tokenizers.Tokenizer
) -> TinyCheckpoint:
    """A factory ``(family, dtype="float32", max_shard_size="50GB") -> directory``; made once a session.

    family: a name in FAMILIES or OUTSIDE.  The directory is shared: copy it to change it.
    """
    made: dict[tuple[str, str, str], Path] = {}

    def make(family: str, dtype: str = "float32", max_shard_size: str = "50GB") -> Path:
        key = (family, dtype, max_shard_size)
        if key not in made:
            directory = tmp_path_factory.mktemp(family)
            save_model(family, dtype, max_shard_size, directory)
            save_tokenizer(family, tiny_tokenizer, directory)
            made[key] = directory
        return made[key]

    return make


def save_model(family: str, dtype: str, max_shard_size: str, directory: Path) -> None:
    """Writes config.json, generation_config.json and safetensors; the weights depend on the family alone."""
    import torch
    import transformers

    model_name, config_name, values = {**FAMILIES, **OUTSIDE}[family]
    config = getattr(transformers, config_name)(**values)
    model = getattr(transformers, model_name)(config)
    randomize(model, seed=zlib.crc32(family.encode()))
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)


def randomize(model: torch.nn.Module, seed: int) -> None:
    """Weights large enough that predictions differ from token to token, and biases and norms that matter.

    The initial values of transformers (standard deviation 0.02, biases 0, norms 1) give nearly uniform
    predictions at this size and hide a dropped bias.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            noise = torch.randn(weight.shape, generator=generator)
            if id(weight) in tables:
                weight.copy_(noise * 0.4)
            elif name.endswith("mlp.gate.weight"):
                # A router that is nearly undecided, so that the weights of its choices matter.
                weight.copy_(noise / weight.shape[1] ** 0.5)
            elif weight.ndim >= 2:
                weight.copy_(noise * 2.0 / min(weight.shape[-2:]) ** 0.5)
                # T5 does not divide scores by the root of a head's width: its queries are small instead.
                if name.endswith("Attention.q.weight"):
                    weight.mul_(model.config.d_kv**-0.5)
            elif name.endswith("bias"):
                weight.copy_(noise * 0.1)
            else:
                # Gemma stores its norms' scales less one.
                weight.copy_(noise * 0.2 + ("Gemma" not in type(model).__name__))
        for name, values in model.named_buffers():
            if name == "final_logits_bias":
                values.copy_(torch.randn(values.shape, generator=generator))


def save_tokenizer(family: str, tokenizer: tokenizers.Tokenizer, directory: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json; those of encoders put special tokens around a text."""
    import tokenizers
    import transformers
    from tokenizers import processors

    own = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    special: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    encoders = (*ENCODERS, *OUTSIDE_ENCODERS)
    if family in (*encoders, *PAIRS, *OUTSIDE_PAIRS):
        begin = "" if family == "t5" else "<s> "
        own.post_processor = processors.TemplateProcessing(
            single=f"{begin}$A </s>",
            pair=f"{begin}$A </s> $B </s>",
            special_tokens=[("<s>", BOS), ("</s>", EOS)],
        )
    if family in encoders:
        special = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=CONTEXT, **special)
    wrapped.save_pretrained(directory)


@pytest.fixture(scope="session")
def run_stage(tmp_path_factory: pytest.TempPathFactory) -> RunStage:
    """Runs a stage in this process: ``(name, inputs, threads=1, notes, observed, **params) -> Artifact``.

    inputs: input name → an artifact, or the directory of a checkpoint, which is loaded.  notes: takes what
    the stage remarks.  observed: takes what it observed.  All outputs of a session are in one store.
    """
    from ingot.artifacts.schema import build
    from ingot.artifacts.store import Store
    from ingot.stages import base

    store = Store.open(tmp_path_factory.mktemp("stages"))
    loaded: dict[object, Artifact] = {}

    def load(directory: Path) -> Artifact:
        """What `load` makes of a checkpoint; once, for it tries the tokenizer in a process of its own."""
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        seen = (directory, *((path, path.stat().st_mtime_ns, path.stat().st_size) for path in files))
        if seen not in loaded:
            loaded[seen] = run("load", {}, model=str(directory))
        return loaded[seen]

    def run(
        name: str,
        inputs: Mapping[str, Artifact | Path],
        threads: int = 1,
        notes: list[str] | None = None,
        observed: dict[str, object] | None = None,
        **params: object,
    ) -> Artifact:
        stage = base.get(name)
        given = {key: load(value) if isinstance(value, Path) else value for key, value in inputs.items()}
        with store.outbox() as outbox:
            context = base.Context(
                params=build(stage.params, params),
                inputs=given,
                output=outbox,
                job=tmp_path_factory.mktemp("job"),
                seed=0,
                threads=threads,
                progress=lambda done, total, what: None,
                note=[].append if notes is None else notes.append,
            )
            result = stage.run(context)
            if observed is not None:
                observed.update(result.observed)
            return outbox.publish(stage.output, result.facts)

    return run


class OneProcess:
    """An executor whose jobs run in this process, one after another, where their libraries are loaded.

    A worker's process spends most of a tiny model's node on importing them.  It is for tests of what a run
    makes; those of the command line, of workers and of `LocalExecutor` start real ones.
    """

    def __init__(self, *, memory_bytes: int | None = None, cores: int | None = None) -> None:
        self._memory_bytes, self._cores = memory_bytes, cores
        self._turn = threading.Lock()

    def capacity(self) -> Capacity:
        from ingot.pipeline import memory
        from ingot.pipeline.ledger import Capacity
        from ingot.targets import host

        return Capacity(self._cores or host.probe().cores, self._memory_bytes or memory.default_bound())

    def submit(self, job: Job, emit: Emit) -> Turn:
        return Turn(job, emit, self._turn)

    def close(self) -> None:
        """Nothing runs that nobody waits for."""


class Turn:
    """A job that runs when somebody waits for it, and no other does."""

    def __init__(self, job: Job, emit: Emit, lock: threading.Lock) -> None:
        self.job, self.emit, self.lock = job, emit, lock

    def wait(self) -> Ended:
        from ingot.pipeline import memory
        from ingot.pipeline.executor import Ended
        from ingot.pipeline.worker import Reporter, perform

        reporter = Reporter(self.job.node, descriptor=-1)
        reporter.send = self.emit  # type: ignore[method-assign]
        self.job.log.touch()
        # A worker's warnings go to its log.
        with self.lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began, spent = time.perf_counter(), time.process_time()
            perform(self.job, reporter).write(self.job.directory)
            seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - spent
        return Ended(0, seconds, cpu_seconds, memory.resident_bytes())


@pytest.fixture(scope="session")
def one_process_executor() -> type[OneProcess]:
    return OneProcess


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nodes of this test's runs are built in this process."""
    monkeypatch.setattr("ingot.pipeline.run.LocalExecutor", OneProcess)


@pytest.fixture(scope="session")
def foreign_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The interpreter of another environment: it has the stand-ins of `data/foreign`, and our libraries."""
    import shutil
    import venv

    import torch

    root = tmp_path_factory.mktemp("foreign")
    venv.EnvBuilder(symlinks=True).create(root)
    site = next(root.glob("lib/python3*/site-packages"))
    (site / "ours.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    for name, version in (("llmcompressor", "0.14.0.1"), ("gptqmodel", "7.6.0")):
        shutil.copytree(Path(__file__).parent / "data" / "foreign" / name, site / name)
        (site / f"{name}-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (site / f"{name}-{version}.dist-info" / "METADATA").write_text(metadata)
    return str(root / "bin" / "python")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of its own for each test."""
    from ingot.artifacts.store import Store

    return Store.open(tmp_path / "store")
