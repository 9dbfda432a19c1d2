"""What released wheels offer: public names and the parameters of calls, per version, read without importing anything.

A wheel is a zip of sources, and :mod:`ast` reads those. For every call of :data:`CALLS` the versions looked at are compared, and each
parameter gets the first version that has it, the first that warns of it, and the first that lacks it:

    python tools/released_api.py --wheels DIR trl.SFTConfig      one call, as a table
    python tools/released_api.py --wheels DIR trl               the public names of a library that have come and gone
    python tools/released_api.py --wheels DIR --write            write signatures.json and public_names.txt.gz of lint/libraries

Wheels are got with ``pip download --no-deps --only-binary :all: -d DIR trl==0.13.0``, as many versions as there is time for.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path

LIBRARIES = Path(__file__).parent.parent / "loradoctor" / "lint" / "libraries"

_PEFT_CONFIGS = "LoraConfig AdaLoraConfig IA3Config LoHaConfig LoKrConfig OFTConfig PrefixTuningConfig PromptTuningConfig PromptEncoderConfig"
_TRL = "SFT DPO KTO ORPO CPO GRPO Reward RLOO PPO BCO"
CALLS = {
    "peft": [
        *(f"peft.{name}" for name in _PEFT_CONFIGS.split()),
        *"peft.get_peft_model peft.prepare_model_for_kbit_training peft.inject_adapter_in_model".split(),
        *"peft.get_peft_model_state_dict peft.set_peft_model_state_dict".split(),
        *(f"peft.PeftModel.{name}" for name in "from_pretrained save_pretrained load_adapter set_adapter add_adapter".split()),
        *(f"peft.LoraModel.{name}" for name in "merge_and_unload add_weighted_adapter merge_adapter".split()),
    ],
    "transformers": [
        "transformers.TrainingArguments", "transformers.Seq2SeqTrainingArguments", "transformers.Trainer",
        "transformers.BitsAndBytesConfig", "transformers.PreTrainedModel.from_pretrained", "transformers.PreTrainedModel.save_pretrained",
        "transformers.DataCollatorForLanguageModeling", "transformers.DataCollatorForSeq2Seq",
    ],
    "trl": [f"trl.{name}{kind}" for name in _TRL.split() for kind in ("Config", "Trainer")],
    "accelerate": ["accelerate.Accelerator"],
}  # fmt: skip
"""The calls whose parameters are kept as data."""

_ELSEWHERE = re.compile(r"/(experimental|deprecated|legacy|tests?|examples|commands|templates)/")
_SERVED = re.compile(r"(Tokenizer|ImageProcessor)(Fast)?$|FeatureExtractor$|^MODEL_NAMES")
"""Names of transformers that are gone from its lists and still served by its modules' `__getattr__`."""
_SHIMS = ("deprecate_kwarg", "_deprecate_arguments", "deprecated_kwargs")
_SAYS_SO = re.compile(r"'help':\s*\(?['\"]\W*(?:this \w+ is )?deprecated", re.IGNORECASE)
"""How the help of a dataclass field begins that is on its way out."""
_VALUES = re.compile(r"==|!= (?!None)|isinstance\(")
"""Tests of what an argument is, rather than of whether it is given."""
_WARNS = re.compile(r"deprecat|will be removed", re.IGNORECASE)

Definition = ast.ClassDef | ast.FunctionDef


def version_key(text: str) -> tuple[int, ...]:
    """Order of versions: ``0.10.1`` comes after ``0.9.6``."""
    return tuple(int(n) for n in re.findall(r"\d+", text))


@dataclass(frozen=True)
class Parameters:
    """What a call takes: names, those of them it warns of, whether it takes any other keyword, and bases in other libraries."""

    names: frozenset[str] = frozenset()
    deprecated: frozenset[str] = frozenset()
    open: bool = False
    inherits: tuple[str, ...] = ()

    def __or__(self, other: Parameters) -> Parameters:
        return Parameters(
            self.names | other.names,
            self.deprecated | other.deprecated,
            self.open or other.open,
            tuple(dict.fromkeys(self.inherits + other.inherits)),
        )


@dataclass(eq=False)
class Wheel:
    """One released version of one library."""

    path: Path
    _modules: dict[str, ast.Module | None] = field(default_factory=dict)

    @property
    def library(self) -> str:
        """The name it is imported by."""
        return self.path.name.split("-")[0].lower()

    @property
    def version(self) -> str:
        """As its file name says."""
        return self.path.name.split("-")[1]

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    @cached_property
    def files(self) -> list[str]:
        """Its Python files."""
        return [n for n in self._zip.namelist() if n.endswith(".py") and n.startswith(f"{self.library}/")]

    @cached_property
    def _homes(self) -> dict[str, list[str]]:
        """Where each top-level class or function is defined, the most public place first."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.files, key=lambda n: (bool(_ELSEWHERE.search(n)), n.count("/"), len(n))):
            for match in re.finditer(r"^(?:class|def) (\w+)", self._zip.read(name).decode("utf-8", "replace"), re.MULTILINE):
                found.setdefault(match[1], []).append(name)
        return found

    def text(self, name: str) -> str:
        """A file's source."""
        return self._zip.read(name).decode("utf-8", "replace")

    def tree(self, name: str) -> ast.Module:
        """A file's syntax tree."""
        found = self._modules.get(name)
        if found is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in old releases
                found = self._modules[name] = ast.parse(self.text(name))
        return found

    def forget(self) -> None:
        """Give back the memory of the syntax trees."""
        self._modules.clear()

    def module(self, dotted: str) -> str | None:
        """The file of a module."""
        stem = dotted.replace(".", "/")
        return next((n for n in (f"{stem}.py", f"{stem}/__init__.py") if n in self.files), None)

    def definition(self, name: str) -> tuple[str, Definition] | None:
        """The class or function of this name, where it is most public."""
        for place in self._homes.get(name, []):
            for node in self.tree(place).body:
                if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
                    return place, node
        return None

    def offers(self, dotted: str) -> bool:
        """Whether ``from a.b import c`` works for ``a.b.c``, as far as the text tells."""
        home, _, name = dotted.rpartition(".")
        place = self.module(home)
        if self.module(dotted) is not None:
            return True
        return place is not None and (name in self.public_names if home == self.library else name in _bound(self.tree(place)))

    @cached_property
    def public_names(self) -> frozenset[str]:
        """What can be imported from the library itself."""
        init = f"{self.library}/__init__.py"
        names = _bound(self.tree(init)) | _lazy(self.tree(init))
        if self.library == "transformers":  # since 4.48 the models' own `__all__` completes the list
            for file in self.files:
                if file.startswith("transformers/models/") and "\n__all__" in (text := self.text(file)):
                    names |= set(re.findall(r"[\"'](\w+)[\"']", text[text.rindex("\n__all__") :]))
        return frozenset(names)

    def parameters(self, dotted: str) -> Parameters | None:
        """The parameters of ``library.Class``, ``library.function`` or ``library.Class.method``; None where there is no such call."""
        _, *path = dotted.split(".")
        found = self.definition(path[0])
        if found is None or (self.library == "trl" and path[0] not in self.public_names):
            return None
        place, node = found
        if isinstance(node, ast.FunctionDef):
            return _of_function(node)
        return self._of_method(place, node, path[1]) if len(path) > 1 else self._of_class(place, node)

    def _bases(self, place: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef | str]]:
        for base in node.bases:
            name = _name(base)
            found = self._resolve(place, name) if name else None
            if found is not None and isinstance(found[1], ast.ClassDef) and found[1] is not node:
                yield found[0], found[1]
            else:
                yield place, name

    def _resolve(self, place: str, name: str, depth: int = 6) -> tuple[str, Definition] | None:
        """What a name means in a file: its own definition, else what an import of this library brings."""
        tree = self.tree(place)
        own = next((n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name), None)
        if own is not None or depth == 0:
            return (place, own) if own is not None else None
        for node in (n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)):
            real = next((a.name for a in node.names if (a.asname or a.name) == name), None)
            package = place.removesuffix(".py").split("/")[: -node.level] if node.level else []
            home = self.module(".".join([*package, *(node.module or "").split(".")]).strip("."))
            if real is not None and home is not None and home != place:
                return self._resolve(home, real, depth - 1)
        return None

    def _of_method(self, place: str, node: ast.ClassDef, name: str) -> Parameters | None:
        own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name), None)
        if own is not None:
            return _of_function(own, method=True)
        for home, base in self._bases(place, node):
            found = self._of_method(home, base, name) if isinstance(base, ast.ClassDef) else None
            if found is not None:
                return found
        return None

    def _of_class(self, place: str, node: ast.ClassDef) -> Parameters:
        made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        found = _of_fields(node) if made is None else _of_function(made, method=True)
        if made is not None and not found.open:
            return found
        closed = False
        for home, base in self._bases(place, node):  # what `**kwargs` takes goes to a base, too
            theirs = self._of_class(home, base) if isinstance(base, ast.ClassDef) else Parameters(inherits=(base,) if base else ())
            closed |= isinstance(base, ast.ClassDef) and not theirs.open and any(_name_of(n) == "__init__" for n in base.body)
            found |= theirs
        return replace(found, open=False) if closed else found


def _of_function(node: ast.FunctionDef, *, method: bool = False) -> Parameters:
    """A function's parameters, with what it takes out of ``**kwargs`` by name and what its decorators still translate."""
    a = node.args
    names = {arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)} - ({"self", "cls"} if method else set())
    shims = {n for d in node.decorator_list if isinstance(d, ast.Call) and _name(d.func) in _SHIMS for n in _shimmed(d)}
    popped: set[str] = set()
    if a.kwarg is not None:
        for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
            taken = isinstance(call.func, ast.Attribute) and call.func.attr in ("pop", "get") and _name(call.func.value) == a.kwarg.arg
            if taken and call.args and isinstance(call.args[0], ast.Constant):
                popped.add(str(call.args[0].value))
            elif taken and call.args and isinstance(call.args[0], ast.Name):  # for name in ["mirror", …]: kwargs.pop(name)
                popped |= _listed(node, call.args[0].id)
    known = names | popped | shims
    return Parameters(frozenset(known), frozenset(shims | _warned(node, known)), a.kwarg is not None)


def _listed(node: ast.FunctionDef, variable: str) -> set[str]:
    """The literals that a loop of a function gives a variable."""
    loops = (n for n in ast.walk(node) if isinstance(n, ast.For) and _name(n.target) == variable and isinstance(n.iter, (ast.List, ast.Tuple)))
    return {str(c.value) for loop in loops for c in ast.walk(loop.iter) if isinstance(c, ast.Constant)}


def _shimmed(decorator: ast.Call) -> Iterator[str]:
    """The names a decorator takes in the place of others: its first argument, or its list of deprecated ones."""
    for keyword in decorator.keywords:
        if keyword.arg in ("old_name", "deprecated_args"):
            yield from (str(c.value) for c in ast.walk(keyword.value) if isinstance(c, ast.Constant))
    if decorator.args and isinstance(decorator.args[0], ast.Constant):
        yield str(decorator.args[0].value)


def _of_fields(node: ast.ClassDef) -> Parameters:
    """The fields of a dataclass that its constructor takes."""
    names: set[str] = set()
    warned: set[str] = set()
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__post_init__":
            warned |= _warned(statement, names)
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        text = ast.unparse(statement)
        if "ClassVar" in ast.unparse(statement.annotation) or "init=False" in text:
            continue
        names.add(statement.target.id)
        if _SAYS_SO.search(text):
            warned.add(statement.target.id)
    return Parameters(frozenset(names), frozenset(warned))


def _warned(node: ast.FunctionDef, names: Iterable[str]) -> set[str]:
    """The parameters that a body warns of where they are given."""
    found: set[str] = set()
    for test in (n for n in ast.walk(node) if isinstance(n, ast.If)):
        if _VALUES.search(ast.unparse(test.test)):
            continue  # some of its values are on the way out, not the parameter
        asked = {n.id for n in ast.walk(test.test) if isinstance(n, ast.Name)} | {n.attr for n in ast.walk(test.test) if isinstance(n, ast.Attribute)}
        asked |= {str(n.value) for n in ast.walk(test.test) if isinstance(n, ast.Constant)}
        for call in (n for s in test.body for n in ast.walk(s) if isinstance(n, ast.Call)):
            said = ast.unparse(call)
            if _name(call.func).startswith("warn") and _WARNS.search(said):
                found |= {n for n in asked.intersection(names) if re.search(rf"\b{n}\b", said)}
    return found


def _name_of(node: ast.stmt) -> str:
    return node.name if isinstance(node, ast.FunctionDef) else ""


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _bound(tree: ast.Module) -> set[str]:
    """The names that a module's statements bind, those under `if TYPE_CHECKING` included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.AnnAssign):
            names.add(_name(node.target))
    return names


def _lazy(tree: ast.Module) -> set[str]:
    """The strings of `_import_structure`."""
    return {
        str(c.value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Expr)) and "_import_structure" in ast.unparse(node)[:200]
        for c in ast.walk(node)
        if isinstance(c, ast.Constant) and isinstance(c.value, str)
    }


@cache
def wheels(directory: Path, library: str) -> tuple[Wheel, ...]:
    """The wheels of a library, oldest first."""
    found = [Wheel(p) for p in directory.glob(f"{library}-*.whl")]
    return tuple(sorted(found, key=lambda w: version_key(w.version)))


@dataclass
class Span:
    """The life of a name: the first version seen with it, warning of it, without it."""

    since: str
    deprecated: str = ""
    until: str = ""


Told = list[tuple[str, Parameters | None]]


def read(releases: Iterable[Wheel], calls: Iterable[str]) -> dict[str, Told]:
    """What every release says of some calls, one release in memory at a time."""
    told: dict[str, Told] = {call: [] for call in calls}
    for wheel in releases:
        for call, found in told.items():
            found.append((wheel.version, wheel.parameters(call)))
        wheel.forget()
    return told


def history(told: Told) -> tuple[dict[str, Span], dict[str, object]]:
    """The life of every parameter of a call, and about the call itself: its first and last version, bases and openness."""
    lives: dict[str, Span] = {}
    about: dict[str, object] = {}
    for version, found in told:
        if found is None:
            if about and "until" not in about:
                about["until"] = version
            continue
        about.setdefault("since", version)
        about.pop("until", None)
        about |= {"inherits": list(found.inherits), "open": found.open}
        for name in found.names:
            life = lives.setdefault(name, Span(version))
            life.until = ""
            life.deprecated = (life.deprecated or version) if name in found.deprecated else ""
        for name, life in lives.items():
            if name not in found.names and not life.until:
                life.until = version
    return lives, about


def _print_call(releases: tuple[Wheel, ...], call: str) -> None:
    lives, about = history(read(releases, [call])[call])
    print(call, about, f"({len(releases)} versions, {releases[0].version} … {releases[-1].version})")
    for name, life in sorted(lives.items(), key=lambda item: (version_key(item[1].since), item[0])):
        print(f"  {name:45} since {life.since:9} deprecated {life.deprecated or '-':9} gone {life.until or '-'}")


def name_history(releases: Iterable[Wheel]) -> dict[str, Span]:
    """The life of every public name of a library."""
    lives: dict[str, Span] = {}
    for wheel in releases:
        for name in wheel.public_names:
            lives.setdefault(name, Span(wheel.version)).until = ""
        for name, life in lives.items():
            if name not in wheel.public_names and not life.until:
                life.until = wheel.version
        wheel.forget()
    return lives


def _print_names(releases: tuple[Wheel, ...]) -> None:
    for name, life in sorted(name_history(releases).items()):
        if life.until or life.since != releases[0].version:
            print(f"  {name:50} since {life.since:9} gone {life.until or '-'}")


def main() -> None:
    """Print or write what the wheels say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="a library, or calls of libraries")
    parser.add_argument("--wheels", type=Path, required=True, help="directory of downloaded wheels")
    parser.add_argument("--write", action="store_true", help="write the data that lint uses")
    options = parser.parse_args()
    for name in options.names:
        releases = wheels(options.wheels, name.partition(".")[0])
        if "." in name:
            _print_call(releases, name)
        else:
            _print_names(releases)
    if options.write:
        (LIBRARIES / "signatures.json").write_text(signatures(options.wheels), encoding="utf-8")
        (LIBRARIES / "public_names.txt.gz").write_bytes(gzip.compress(names(options.wheels).encode(), mtime=0))


def signatures(directory: Path) -> str:
    """The life of every parameter of :data:`CALLS` as JSON, a line for each call.

    A parameter is ``[since, deprecated, until]``, or ``since`` alone where nothing has happened to it. A version is named by its minor
    release where it is the first one looked at of that minor.
    """
    lines = []
    for library, calls in CALLS.items():
        releases = wheels(directory, library)
        short = _short(releases)
        for call, told in read(releases, calls).items():
            lives, about = history(told)
            row: dict[str, object] = {key: short[str(about[key])] for key in ("since", "until") if key in about}
            row["bases"] = [base for base in about["inherits"] if base == "TrainingArguments"]  # type: ignore[attr-defined]
            row |= {"open": about["open"], "parameters": {name: _life(life, short) for name, life in sorted(lives.items())}}
            lines.append(f"{json.dumps(call)}: {json.dumps(row)}")
    return "{" + ",\n".join(lines) + "}\n"


def _life(life: Span, short: dict[str, str]) -> str | list[str | None]:
    since = short[life.since]
    return [since, short.get(life.deprecated), short.get(life.until)] if life.deprecated or life.until else since


def names(directory: Path) -> str:
    """The life of every public class, and of PEFT's and TRL's functions, that came or went: lines of name, since, until, ``-`` for neither.

    A class of transformers that only left the list of what is public can still be imported from its module, and is left out.
    """
    lines = []
    for library in ("peft", "transformers", "trl"):
        releases = wheels(directory, library)
        short = _short(releases)
        for name, life in sorted(name_history(releases).items()):
            since = "-" if life.since == releases[0].version else short[life.since]
            until = short[life.until] if life.until else "-"
            kept = name[:1].isupper() if library == "transformers" else _defined(releases, name)
            still = bool(life.until) and (_SERVED.search(name) or (library == "transformers" and releases[-1].definition(name)))
            if kept and "." not in name and (since, until) != ("-", "-") and not still:
                lines.append(f"\n{library}.{name} {since} {until}")
    return "".join(lines) + "\n"


def _defined(releases: tuple[Wheel, ...], name: str) -> bool:
    """Whether a name is the library's own class or function, not a module that its `__init__` names or imports."""
    return any(wheel.definition(name) is not None and name in wheel.public_names for wheel in releases)


def _short(releases: tuple[Wheel, ...]) -> dict[str, str]:
    """How a version is named: by its minor release, if it is the first of it."""
    names: dict[str, str] = {}
    for wheel in releases:
        minor = ".".join(wheel.version.split(".")[:2])
        names[wheel.version] = wheel.version if minor in names.values() else minor
    return names


if __name__ == "__main__":
    main()
