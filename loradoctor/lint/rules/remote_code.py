"""LD452."""

from __future__ import annotations

from collections.abc import Iterator

from loradoctor.diagnostic import Finding, Severity
from loradoctor.lint.flow.values import NONE, Known
from loradoctor.lint.libraries.hub import is_repository
from loradoctor.lint.module import Arrival, Module, Site, literal
from loradoctor.rule import rule


@rule("LD452", Severity.INFO, "SE3")
def remote_code(module: Module) -> Iterator[Finding]:
    """Code from a repository on the Hub is run, in whatever version stands there on the day.

    `trust_remote_code=True` downloads Python files next to the weights and runs them with your rights. Without a revision
    the owner of the repository, or whoever takes over the account, can change them at any time. It is told once for a file.

    ```python
    from peft import PeftModel
    from transformers import AutoModel

    base = AutoModel.from_pretrained("THUDM/chatglm3-6b", trust_remote_code=True)
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    What to write instead:
    ```python
    from peft import PeftModel
    from transformers import AutoModel

    REVISION = "103caa40027ebfd8450289ca2f278eac4ff26405"
    base = AutoModel.from_pretrained("THUDM/chatglm3-6b", trust_remote_code=True, revision=REVISION)
    model = PeftModel.from_pretrained(base, "runs/last")
    ```
    Read the files of the revision before you pin it.
    """
    places = [site for site in module.calls("transformers.*", "diffusers.*") if site.sometimes(_runs_unpinned)]
    if places:
        first, *others = places
        yield first.finding(
            f"code from {_repository(first)} on the Hub may run, in any version",
            related=module.related(others[0].node, "and here") if others else (),
            help="its owner can change what runs here at any time; pass `revision=` with the hash of a commit you have read",
        )


def _runs_unpinned(arrival: Arrival) -> bool:
    """Whether a repository that is named in the program brings its own code, with no revision given."""
    source = literal(arrival.arg("pretrained_model_name_or_path"))
    trusted = arrival.arg("trust_remote_code") == Known(value=True)
    pinned = any(arrival.arg(name) not in (None, NONE) for name in ("revision", "code_revision"))
    return trusted and not pinned and isinstance(source, str) and is_repository(source)


def _repository(site: Site) -> str:
    arrival = site.sometimes(_runs_unpinned)
    return f"`{literal(arrival.arg('pretrained_model_name_or_path'))}`" if arrival else "a repository"
