"""Which functions that nothing calls are worth running: those in whose reach something begins that a rule looks at.

Most of what rules look at needs a beginning: a model that is loaded, wrapped or trained, an adapter that is read. A function that
only passes on, measures or saves what it is given is run where something is passed to it; run by itself, with arguments nothing
is known of, it shows nothing. Library code is nearly all of that kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loradoctor.lint import ir
from loradoctor.lint.flow.facts import Facts, Instance
from loradoctor.lint.flow.values import Function, UserClass
from loradoctor.lint.libraries import canonical, function_spec

if TYPE_CHECKING:
    from loradoctor.lint.flow.machine import Machine
    from loradoctor.lint.flow.state import State

PASSIVE = frozenset(
    """
    ArgumentParser Namespace PosixPath PurePath PurePosixPath SimpleNamespace _replace_module add_adapter add_argument
    add_argument_group add_mutually_exclusive_group add_param_group add_special_tokens add_tokens add_weighted_adapter apply
    apply_chat_template block compile copy deepcopy delete_adapter delete_adapters detach disable_adapters disable_lora
    enable_adapters enable_input_require_grads enable_lora evaluate forward fspath fuse_lora generate get_base_model
    get_nb_trainable_parameters get_state_dict get_submodule gradient_checkpointing gradient_checkpointing_enable hasattr
    init_lora_weights initialize is_trainable items load_adapter load_in_4bit load_in_8bit load_state_dict merge_adapter
    modules_to_save named_parameters npu parameters parse_args parse_known_args peft_config predict prepare print
    print_trainable_parameters prune_heads quantization_config range requires_grad requires_grad_ resize_token_embeddings
    reverse_bettertransformer reversed rmtree save_lora_weights save_model save_state set_adapter set_adapters set_defaults
    share_memory state_dict str target_modules task_type to_bettertransformer type unload unload_lora unload_lora_weights
    unmerge_adapter unwrap_model xpu zero_grad
    """.split()
)
"""Words of the vocabulary that only say how something is made, or do something to what another word has made."""

_EVERYWHERE = ("torch.nn.", "torch.optim.", "builtins.", "os.", "functools.", "copy.", "pathlib.", "tqdm.", "dataclasses.", "argparse.")
"""What programs of every kind use."""

_WHOLE = ("peft", "trl", "unsloth", "transformers", "diffusers")
"""Imported whole, they begin what is then called by its full name."""

_LIBRARIES = ("peft", "transformers", "trl", "accelerate", "diffusers", "unsloth", "torch")
"""Those whose objects are more than something that is passed around."""


def reach(machine: Machine, world: State) -> frozenset[str]:
    """The words that begin something, and to a fixpoint the names of this file's functions and classes that hold one."""
    words = set(machine.vocabulary - PASSIVE)
    if "torch" not in machine.imports:
        words -= {"load", "save"}
    words |= {name for (_, name), value in world.vars.items() if _is_something(world.facts(value))}
    for node in machine.program.body:
        if isinstance(node, ir.Import):
            words |= {bound for bound, dotted in node.bindings if _begins(dotted)}
    functions = [(f.node, owner) for f, owner in machine.functions if isinstance(f.node, ir.Function)]
    grown = True
    while grown:
        found: set[str] = set()
        for node, owner in functions:
            if node.words.isdisjoint(words):
                continue
            # `__init__` stands in every class: what it begins goes by the name of its own.
            found.add(owner.node.name if owner is not None and node.name.startswith("__") else node.name)
        grown = not found <= words
        words |= found
    return frozenset(words)


def _begins(dotted: str) -> bool:
    name = canonical(dotted)
    return not name.startswith(_EVERYWHERE) and (name in _WHOLE or function_spec(name) is not None)


def _is_something(facts: Facts | None) -> bool:
    """Whether a name of the module stands for more than an object of a class that no rule knows."""
    if isinstance(facts, Instance):
        return facts.cls.partition(".")[0] in _LIBRARIES
    return facts is not None


def worth_starting(function: Function, owner: UserClass | None, words: frozenset[str]) -> bool:
    """Whether a function is worth running by itself: it or the making of its object begins something."""
    node = function.node
    if not isinstance(node, ir.Function) or not words.isdisjoint(node.words):
        return True
    return owner is not None and _class_begins(owner, words)


def _class_begins(owner: UserClass, words: frozenset[str]) -> bool:
    return owner.node.name in words or any(isinstance(base, UserClass) and _class_begins(base, words) for base in owner.bases)
