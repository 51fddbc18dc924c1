"""Text models of Hugging Face `transformers`: classifiers and language models of many families."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

from leakgauge.core import Domain, ModelError, TextDomain
from leakgauge.data.files import find_file
from leakgauge.models.parts import check_counts, seeded
from leakgauge.models.text_outputs import LanguageModel, TextClassifier
from leakgauge.models.transformer import require_text

Family = Literal["bert", "gpt2", "llama"]
Task = Literal["classification", "causal", "masked"]
_HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
}
_CONFIGS = {"bert": "BertConfig", "gpt2": "GPT2Config", "llama": "LlamaConfig"}
TARGETS = {"bert": ("query", "value"), "gpt2": ("c_attn",), "llama": ("q_proj", "v_proj")}
"""Layers of attention that LoRA adapts, by family. They are the defaults of peft."""


def hugging_face_text(
    domain: Domain,
    classes: int,
    *,
    family: Family = "gpt2",
    task: Task = "classification",
    dim: int = 64,
    depth: int = 2,
    heads: int = 4,
    folder: str | None = None,
    mask: int | None = None,
    masked: Sequence[int] = (),
    lora: int | None = None,
    frozen: Sequence[str] = (),
    seed: int = 0,
) -> nn.Module:
    """Build a text model of Hugging Face `transformers`.

    Weights are random, or come from a folder. Nothing is downloaded. This builder needs the package
    `transformers`, which `pip install "leakgauge[text]"` installs.

    Args:
        domain: Domain of the text.
        classes: Number of classes. Language models ignore it.
        family: "bert", "gpt2" or "llama". A folder names its own family, which may be any.
        task: "classification", or the language models "causal" and "masked". The loss of a language
            model is `token_mean`.
        dim: Number of values of a token.
        depth: Number of blocks.
        heads: Number of attention heads. It must divide `dim`.
        folder: Folder that `save_pretrained` wrote. If it is given, it determines family, dim,
            depth and heads. By default weights are random.
        mask: Token in the place of those that a masked model predicts.
        masked: Places that a masked model predicts, from 0.
        lora: Rank of LoRA adapters on the queries and values. Only they and the head are trained.
            The default trains all weights.
        frozen: Beginnings of the names of parameters that are not trained, such as
            "transformer.wte" for the embeddings of GPT-2. The default is none.
        seed: Seed of the initial weights. The global random state stays unchanged.

    Returns:
        The model in eval mode. It takes tokens (B, L), and returns logits (B, classes), or the sums
        of `LanguageModel`.

    Raises:
        ModelError: `transformers` or `peft` is not installed, or the domain holds no text. Or the
            folder does not fit the vocabulary or the length, or an option is unknown.

    References:
        Radford et al. Language Models are Unsupervised Multitask Learners. 2019 (GPT-2).

        Devlin et al. BERT. NAACL 2019. arXiv:1810.04805.

        Touvron et al. LLaMA. 2023. arXiv:2302.13971.

        Hu et al. LoRA: Low-Rank Adaptation of Large Language Models. ICLR 2022. arXiv:2106.09685.

    Example:
        >>> import leakgauge as lg
        >>> domain = lg.TextDomain(50, 6, pad=0)
        >>> model = lg.models.hugging_face_text(domain, 2, family="gpt2")  # doctest: +SKIP
    """
    text = require_text(domain, "hugging_face_text")
    check_counts("hugging_face_text", classes=classes, dim=dim, depth=depth, heads=heads)
    if family not in _CONFIGS or task not in _HEADS or dim % heads:
        raise mistake(
            f"a family of {', '.join(_CONFIGS)}, a task of {', '.join(_HEADS)}, and heads that divide dim",
            f"{family!r}, {task!r}, and {heads} heads for dim {dim}",
            "correct the option family, task, dim or heads",
        )
    library = transformers()
    auto = getattr(library, _HEADS[task])
    check_masks(text, task, mask, masked)
    if lora is not None:
        check_counts("hugging_face_text", lora=lora)
    with seeded(seed), quiet():
        if folder is not None:
            network = loaded(auto, folder, text, classes if task == "classification" else None)
        else:
            config = _config(library, family, text, classes, dim, depth, heads)
            network = auto.from_config(config, attn_implementation="eager")
        check_fit(network, text)
        if lora is not None:
            network = adapted(network, lora, task)
    freeze(network, frozen)
    if task == "classification":
        return TextClassifier(network, text.pad).eval()
    return LanguageModel(network, text.pad, mask=mask, masked=masked).eval()


def transformers() -> Any:
    """Return the package transformers. Raise ModelError if it is not installed."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise mistake(
            "the package transformers",
            str(error),
            'run `pip install "leakgauge[text]"`, or use a model of your own',
        ) from error


def _config(
    library: Any, family: Family, text: TextDomain, classes: int, dim: int, depth: int, heads: int
) -> Any:
    """Return the configuration of a network with random weights."""
    shared = {"vocab_size": text.vocabulary, "num_labels": classes, "pad_token_id": text.pad}
    # The defaults are tokens of the family's own vocabulary.
    shared |= {"bos_token_id": None, "eos_token_id": None}
    if family == "gpt2":
        sizes = {"n_embd": dim, "n_layer": depth, "n_head": heads, "n_positions": text.length}
    else:
        sizes = {
            "hidden_size": dim,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * dim,
            "max_position_embeddings": text.length,
        }
    return getattr(library, _CONFIGS[family])(**shared, **sizes)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers inside the block: progress bars, deprecations, and the table of a head's new weights."""
    logs = transformers().utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def loaded(auto: Any, folder: str, text: TextDomain, classes: int | None) -> Any:
    """Load the network of a folder. Raise ModelError if the folder holds none."""
    options = {} if classes is None else {"num_labels": classes}
    place = find_file(folder, "weights", error=ModelError)
    try:
        network = auto.from_pretrained(
            place,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="eager",
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise mistake(
            "a folder that save_pretrained wrote, with weights in a safetensors file",
            str(error).strip().partition("\n")[0],
            "give the path of a folder that save_pretrained wrote",
        ) from error
    network.config.pad_token_id = text.pad
    return network


def check_fit(network: Any, text: TextDomain) -> None:
    """Raise ModelError unless the network has an embedding for each token and each position."""
    config = network.config
    if config.vocab_size < text.vocabulary:
        raise mistake(
            f"embeddings for {text.vocabulary} tokens, as the tokenizer has",
            f"{config.vocab_size} embeddings",
            "use the tokenizer that belongs to this model",
        )
    positions = getattr(config, "max_position_embeddings", text.length)
    if positions < text.length:
        raise mistake(
            f"positions for {text.length} tokens",
            f"{positions} positions",
            "choose a smaller length in the data",
        )


def check_masks(text: TextDomain, task: Task, mask: int | None, masked: Sequence[int]) -> None:
    """Raise ModelError unless a masked model has a mask and places within a sequence, and no other model has any."""
    if (mask is not None) is not (task == "masked") or bool(masked) is not (task == "masked"):
        raise mistake(
            "a mask token and masked places for the task 'masked', and neither for another task",
            f"the task {task!r}, the mask {mask} and {len(masked)} places",
            "give, for example, mask = 103 and masked = [1, 4] for a BERT",
        )
    if mask is not None and not 0 <= mask < text.vocabulary:
        found = f"the mask {mask}"
        raise mistake(f"a token below {text.vocabulary}", found, "give the tokenizer's mask token")
    wrong = [place for place in masked if not 0 <= place < text.length]
    if wrong:
        raise mistake(
            f"masked places from 0 to {text.length - 1}",
            str(wrong[0]),
            "choose places that every sentence has",
        )


def adapted(network: Any, rank: int, task: Task) -> Any:
    """Return the network with LoRA adapters of a rank, and with all other weights but the head frozen."""
    width = network.config.hidden_size
    if rank > width:
        raise mistake(
            f"a rank of LoRA of at most {width}, the width of the network",
            str(rank),
            "lower lora: 4 to 64 are usual",
        )
    try:
        peft = importlib.import_module("peft")
    except ImportError as error:
        raise mistake(
            "the package peft", str(error), 'run `pip install "leakgauge[text]"`, or leave lora out'
        ) from error
    kinds = {"classification": "SEQ_CLS", "causal": "CAUSAL_LM", "masked": "FEATURE_EXTRACTION"}
    family = network.config.model_type
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        task_type=kinds[task],
        target_modules=list(TARGETS[family]) if family in TARGETS else None,
        fan_in_fan_out=family == "gpt2",
    )
    return peft.get_peft_model(network, config)


def freeze(network: nn.Module, beginnings: Sequence[str]) -> None:
    """Freeze the parameters whose names begin with one of `beginnings`. Raise ModelError if one fits none."""
    for beginning in beginnings:
        found = [p for name, p in network.named_parameters() if name.startswith(beginning)]
        if not found:
            raise mistake(
                "beginnings of names of parameters in `frozen`",
                repr(beginning),
                f"choose from names such as {next(iter(dict(network.named_parameters())))!r}",
            )
        for parameter in found:
            parameter.requires_grad_(False)


def mistake(expected: str, found: str, remedy: str) -> ModelError:
    """Return a ModelError about `hugging_face_text`."""
    return ModelError("model 'hugging_face_text'", expected=expected, found=found, remedy=remedy)
