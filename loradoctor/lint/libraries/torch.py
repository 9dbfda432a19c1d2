"""torch and safetensors: modules, optimizers, state dicts, files."""

from __future__ import annotations

from loradoctor.lint.flow.facts import Instance, Model, Optimizer
from loradoctor.lint.flow.values import Derived, Items, Known, Oid, Table, Value
from loradoctor.lint.libraries.effects import Context, Spec, set_trainable


def _itself(context: Context) -> Value | None:
    return context.receiver


def _shell(context: Context) -> Value | None:
    context.change(context.arg("module"), shell=context.node)
    return context.arg("module")


def _eval(context: Context) -> Value | None:
    context.event("evaluating", context.receiver)
    return context.receiver


def _derived(kind: str) -> Spec:
    def effect(context: Context) -> Value | None:
        receiver = context.receiver
        if isinstance(receiver, Derived) and receiver.kind == "submodule":
            return Derived(kind, receiver.source, "partly")
        return Derived(kind, receiver) if receiver is not None else None

    return Spec((), effect, recorded=False)


def _requires_grad(context: Context) -> Value | None:
    value = context.arg("requires_grad") or Known(True)  # noqa: FBT003
    receiver = context.receiver
    if isinstance(receiver, Derived):
        certain = receiver.kind == "parameter" and receiver.note.isdigit()
        certain = certain and context.machine.guard_depth <= int(receiver.note)
        set_trainable(context.machine, receiver.source, value, context.node, context.state, certain=certain)
    elif receiver is not None:
        set_trainable(context.machine, receiver, value, context.node, context.state, certain=True)
    return receiver


def _load_state_dict(context: Context) -> Value | None:
    context.change(context.receiver, filled=context.node)
    context.event("filled", context.receiver)
    return None


def _file(kind: str) -> Spec:
    def effect(context: Context) -> Value | None:
        path = context.arg("f")
        return Derived(kind, path) if path is not None else None

    return Spec(("f", "map_location"), effect)


def parameters_in(value: Value | None) -> Value | None:
    """The model whose parameters an optimizer's first argument holds."""
    match value:
        case Derived(kind="parameters" | "named_parameters" | "parameter", source=source):
            return source
        case Items(items=items):
            return next((found for item in items if (found := parameters_in(item)) is not None), None)
        case Table():
            return parameters_in(value.get("params"))
        case _:
            return None


def _optimizer(context: Context) -> Value | None:
    model = context.model(parameters_in(context.arg("params")))
    oid: Oid | None = context.state.oid(model)
    context.event("optimized", model)
    base = context.get(context.base(model), Model)
    return context.new(Optimizer(context.node, context.name, oid, base.injected if base else None))


def _regroup(context: Context) -> Value | None:
    context.change(context.receiver, model=None)
    return None


def _module(context: Context) -> Value | None:
    return context.new(Instance(context.node, context.name))


_ITSELF = Spec((), _itself, recorded=False)
_OPTIMIZER = Spec(("params", "lr"), _optimizer)
_MODELS = ("Model", "Peft", "Instance", "Unknown")

FUNCTIONS = {
    "torch.save": Spec(("obj", "f")),
    "torch.load": _file("torch.load"),
    "safetensors.load_file": _file("load_file"),
    "safetensors.safe_open": _file("safe_open"),
    "safetensors.save_file": Spec(("tensors", "filename")),
    "torch.distributed.init_process_group": Spec(("backend",)),
    "torch.compile": Spec(("module",), _shell),
    "torch.nn.DataParallel": Spec(("module",), _shell),
    "torch.nn.parallel.DataParallel": Spec(("module",), _shell),
    "torch.nn.parallel.DistributedDataParallel": Spec(("module",), _shell),
}
PATTERNS = {
    r"torch\.distributed\.fsdp(\.\w+)*\.FullyShardedDataParallel": Spec(("module", "process_group"), _shell),
    r"torch\.optim\.(?!lr_scheduler|swa_utils)\w+(\.[A-Z]\w+)?": _OPTIMIZER,
    r"bitsandbytes\.(\w*Adam\w*|Lion\w*|Lamb\w*|SGD\w*|RMSprop\w*|Adagrad\w*)": _OPTIMIZER,
    r"transformers\.(AdamW|Adafactor)": _OPTIMIZER,
    r"deepspeed\.ops\.adam\.\w+": _OPTIMIZER,
    r"apex\.optimizers\.\w+": _OPTIMIZER,
    r"torch\.nn\.[A-Z]\w*": Spec((), _module, recorded=False),
}
METHODS: dict[tuple[str, ...], dict[str, Spec]] = {
    _MODELS: {
        "to cuda cpu train half float bfloat16 double type xpu npu apply share_memory": _ITSELF,
        "eval": Spec((), _eval, recorded=False),
        "named_parameters": _derived("named_parameters"),
        "parameters": _derived("parameters"),
        "state_dict": _derived("state_dict"),
        "modules children": _derived("modules"),
        "named_modules named_children": _derived("named_modules"),
        "load_state_dict": Spec(("state_dict", "strict"), _load_state_dict),
        "requires_grad_": Spec(("requires_grad",), _requires_grad),
    },
    ("Model", "Peft"): {
        "__call__ forward generate": Spec(),
        "to cuda half float bfloat16 train": Spec(("argument",), _itself),
        "eval": Spec((), _eval),
    },
    ("Derived:submodule",): {"parameters": _derived("parameters"), "requires_grad_": Spec(("requires_grad",), _requires_grad)},
    ("Derived:parameter",): {"requires_grad_": Spec(("requires_grad",), _requires_grad), "to detach cpu cuda float": _ITSELF},
    ("Optimizer",): {"step": Spec(), "zero_grad state_dict": Spec(recorded=False), "add_param_group": Spec(("group",), _regroup)},
}
