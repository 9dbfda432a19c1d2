"""LD450."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Fix, Severity
from loradoctor.lint import ir
from loradoctor.lint.flow.values import Known, Template, Value
from loradoctor.lint.module import Arrival, Module, Site
from loradoctor.rule import rule


@rule("LD450", Severity.WARNING, "SE1")
def unsafe_load(module: Module) -> Iterator[Finding]:
    """A file is unpickled without restriction: what stands in it can run code.

    A pickle is a program. With `weights_only=False`, and without the argument before torch 2.6, `torch.load` runs whatever
    the file says, with the rights of whoever loads it. An adapter or a checkpoint that was downloaded or sent by someone
    else is such a file. With `weights_only=True` only tensors and plain containers are read.

    ```python
    import torch
    from peft import set_peft_model_state_dict

    def restore(model, path):
        weights = torch.load(path, map_location="cpu", weights_only=False)
        set_peft_model_state_dict(model, weights)
    ```
    What to write instead:
    ```python
    import torch
    from peft import set_peft_model_state_dict

    def restore(model, path):
        weights = torch.load(path, map_location="cpu", weights_only=True)
        set_peft_model_state_dict(model, weights)
    ```
    Files that hold other objects have to be converted once, in a place that is trusted; safetensors files need no pickle.
    """
    written = {key for save in module.calls("torch.save") for a in save.arrivals if (key := _path(a.arg("f"))) is not None}
    unrestricted_by_default = module.before("torch", "2.6")

    def unrestricted(arrival: Arrival) -> bool:
        given = arrival.arg("weights_only")
        if given is None:
            return unrestricted_by_default
        return given == Known(value=False)

    for site in module.calls("torch.load"):
        if not site.sometimes(unrestricted) or any(_path(a.arg("f")) in written for a in site.arrivals):
            continue
        given = site.argument("weights_only")
        yield site.finding(
            "`torch.load` unpickles a file without restriction"
            + ("" if given is not None else ": before torch 2.6 `weights_only` is off unless it is passed"),
            help="a pickle can run code when it is loaded; pass `weights_only=True`, or read a safetensors file",
            fix=_fix(module, site, given),
        )


def _path(value: Value | None) -> Value | None:
    """A path that can be compared: a file this very program wrote holds nothing foreign."""
    return value if isinstance(value, (Known, Template)) else None


def _fix(module: Module, site: Site, given: ir.Arg | None) -> Fix | None:
    title = "read tensors only"
    if given is not None:
        written = isinstance(given.value, ir.Const) and given.name == "weights_only"
        return Fix(title, (module.replace(given.value, "True"),), safe=False) if written else None
    if any(arg.star or arg.name == "weights_only" for arg in site.node.args):
        return None
    return Fix(title, (module.add_argument(site.node, "weights_only=True"),), safe=False)
