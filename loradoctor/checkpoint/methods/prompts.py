"""Prompt methods: embeddings put before the input, or keys and values put before those of every layer.

Shapes: peft/peft_model.py (`get_prompt_embedding_to_save`), peft/tuners/*prompt*/model.py, peft/tuners/adaption_prompt/layer.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loradoctor.checkpoint.adapter_config import AdapterConfig
from loradoctor.checkpoint.methods.dims import Product, name
from loradoctor.checkpoint.methods.table import Layout, Parameter, Part, Problem, Roles, Shapes, Table, each, part

_NEVER = "a prompt has no weights to be folded into"
_TOKENS, _DIM, _LAYERS, _MODULES = name("tokens"), name("dim"), name("layers"), name("submodules")
_GIVEN = (
    Parameter("tokens", "num_virtual_tokens"),
    Parameter("dim", "token_dim"),
    Parameter("layers", "num_layers"),
    Parameter("submodules", "num_transformer_submodules", 1),
)
_ROWS: Product = _TOKENS * _MODULES


def _prompt(parts: dict[str, Part], *more: Parameter) -> Table:
    return Table(given=(*_GIVEN, *more), shared=parts, merges=_NEVER)


PROMPT_TUNING = _prompt(each(prompt_embeddings=part(_ROWS, _DIM)))
P_TUNING = PROMPT_TUNING
# Keys and values of every layer in one row. Their width PEFT takes from the base, whatever `token_dim` says.
PREFIX_TUNING = Table(
    given=tuple(p for p in _GIVEN if p.symbol in ("tokens", "layers")),
    shared=each(prompt_embeddings=part(_TOKENS, 2 * _LAYERS * name("width"))),
    merges=_NEVER,
)
CARTRIDGE = PREFIX_TUNING
MULTITASK_PROMPT_TUNING = _prompt(
    each(
        prompt_embeddings=part(_ROWS, _DIM),
        prefix_task_cols=part(name("tasks"), _ROWS, name("ranks")),
        prefix_task_rows=part(name("tasks"), name("ranks"), _DIM),
    ),
    Parameter("tasks", "num_tasks", 1),
    Parameter("ranks", "num_ranks", 1),
)


def _cpt(config: AdapterConfig, _: Roles) -> dict[str, Part]:
    """One row per token of `cpt_token_ids`; `num_virtual_tokens` is set from it."""
    tokens = config.get("cpt_token_ids")
    return {"prompt_embeddings": part(len(tokens) if isinstance(tokens, list) else _TOKENS, _DIM)}


CPT = Table(shared_for=_cpt, merges=_NEVER)


def _layers(config: AdapterConfig, modules: Mapping[str, Shapes], _: Shapes) -> Iterator[Problem]:
    wanted = config.get("adapter_layers")
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0 and modules and len(modules) != wanted:
        yield Problem("adapter_layers", f"`adapter_layers` says {wanted}, but the file has prompts for {len(modules)}")


ADAPTION_PROMPT = Table(
    given=(Parameter("length", "adapter_len"),),
    judge_all=_layers,
    layouts=(Layout(each(adaption_prompt=part(1, name("length"), _DIM), adaption_gate=part(1))),),
    merges=_NEVER,
)
