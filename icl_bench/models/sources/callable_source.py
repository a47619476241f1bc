"""The source of models that a function of the user's builds: `package.module:callable`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
import weakref
from collections.abc import Collection, Iterator, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from icl_bench.errors import ModelError, SpecError, nearest
from icl_bench.models.module.leftovers import explain_leftovers
from icl_bench.models.module.weights import explain_failure
from icl_bench.models.sources.source import Found, LoadedParts, Opening, Source
from icl_bench.models.sources.spec import FORMS, ModelSpec
from icl_bench.models.sources.table import suggest_source

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RETURNS = "it has to return a transformers model, (model, tokenizer), or an icl_bench Model"


@contextlib.contextmanager
def working_directory_importable() -> Iterator[None]:
    """Put the working directory on `sys.path` for a while, as `python -m pytest` does."""
    here = os.getcwd()
    importlib.invalidate_caches()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def check_callable(target: str) -> None:
    """Check that a callable can be found; only the parent packages of its module are imported.

    Args:
        target: `package.module:callable`.

    Raises:
        SpecError: there is no such module, its text makes nothing of that name, or importing a
            parent package fails.
    """
    module, _, attribute = target.partition(":")
    with working_directory_importable():
        try:
            found = None if module in sys.modules else importlib.util.find_spec(module)
            exists = module in sys.modules or found is not None
        except ModuleNotFoundError as error:
            # A missing parent package is the user's typing mistake; a missing dependency is not.
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise SpecError(_import_failed(module, error)) from None
            exists = False
        except (Exception, SystemExit) as error:
            raise SpecError(_import_failed(module, error)) from error
    if exists:
        own, others = _names_in(found.origin if found else None)
        wanted = attribute.partition(".")[0]
        if others is not None and wanted not in {*own, *others}:
            raise SpecError(f"{module!r} has no {wanted!r}; {nearest(wanted, sorted(own))}")
        return
    plain = module.removesuffix(".py")
    hint = suggest_source(target)
    if plain != module and os.path.isfile(f"{plain.replace('.', '/')}.py"):
        hint = f"; did you mean '{plain}:{attribute}'?"
    elif not hint and "." not in module:
        hint = f"; a revision of a hub id is written '{module}@{attribute}'"
    raise SpecError(f"there is no module {module!r}, neither installed nor in {os.getcwd()}{hint}")


def _names_in(file: str | None) -> tuple[set[str], set[str] | None]:
    """Names that a module's text makes: of its functions and classes, and all others.

    The second is None where it cannot be told without running the text.
    """
    if file is None or not file.endswith(".py"):
        return set(), None
    try:
        tree = ast.parse(Path(file).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set(), None  # the import will say what is wrong
    own: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            own.add(node.name)
        elif isinstance(node, ast.alias):
            others.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.Name):
            others.add(node.id)
    # Names that come from elsewhere, or are made as the module runs.
    open_ended = {"*", "globals", "setattr", "exec", "vars"} & others or "__getattr__" in own
    return own, None if open_ended else others


def _import_failed(module: str, error: BaseException) -> str:
    return f"importing the package of {module!r} failed: {_describe(error)}"


def call(target: str) -> tuple[PreTrainedModel, Any | None]:
    """Import a callable, call it without arguments, and return model and tokenizer.

    What the callable prints is shown: it is the user's own code.

    Args:
        target: `package.module:callable`.

    Raises:
        ModelError: it cannot be imported, it raises, or it returns something else.
    """
    module_name, _, attribute = target.partition(":")
    with working_directory_importable():
        try:
            function: Any = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:
            raise ModelError(f"importing {module_name!r} failed: {_describe(error)}") from error
        for part in attribute.split("."):
            if not hasattr(function, part):
                names = [name for name in dir(function) if not name.startswith("_")]
                raise ModelError(f"{module_name!r} has no {attribute!r}; {nearest(part, names)}")
            function = getattr(function, part)
        if not callable(function):
            raise ModelError(
                f"{attribute!r} is not callable but a {type(function).__name__}; {RETURNS}"
            )
        with _watched_loading() as unused:
            try:
                result = function()
            except (Exception, SystemExit) as error:
                raise ModelError(f"calling {attribute!r} failed: {_describe(error)}") from error
    model, tokenizer = _take_apart(result)
    if reason := explain_leftovers(unused.get(model, ())):
        raise ModelError(reason)
    return model, tokenizer


@contextlib.contextmanager
def _watched_loading() -> Iterator[MutableMapping[Any, Collection[str]]]:
    """Note what the models that are loaded meanwhile leave unused of their checkpoints.

    Yields:
        model -> names of tensors.
    """
    from transformers import PreTrainedModel

    unused: MutableMapping[Any, Collection[str]] = weakref.WeakKeyDictionary()
    owner: Any = PreTrainedModel
    own = owner.__dict__["from_pretrained"]

    def load(cls: Any, /, *args: Any, output_loading_info: bool = False, **options: Any) -> Any:
        model, info = own.__get__(None, cls)(*args, output_loading_info=True, **options)
        unused[model] = info.get("unexpected_keys") or ()
        return (model, info) if output_loading_info else model

    owner.from_pretrained = classmethod(load)
    try:
        yield unused
    finally:
        owner.from_pretrained = own


def _take_apart(result: Any) -> tuple[PreTrainedModel, Any | None]:
    from transformers import PreTrainedModel

    from icl_bench.models.module.sharding import refuse_split

    refuse_split(result[0] if isinstance(result, tuple) and result else result)
    if isinstance(result, PreTrainedModel):
        return result, None
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], PreTrainedModel):
        tokenizer = result[1]
        if tokenizer is not None and not callable(tokenizer):
            raise ModelError(f"its second value is no tokenizer but a {type(tokenizer).__name__}")
        return result[0], tokenizer
    if isinstance(getattr(result, "model", None), PreTrainedModel) and hasattr(result, "tokenizer"):
        return result.model, result.tokenizer
    what = type(result).__name__
    if isinstance(result, tuple):
        what = f"tuple of {', '.join(type(part).__name__ for part in result) or 'nothing'}"
    raise ModelError(f"it returned a {what}; {RETURNS}")


def _describe(error: BaseException) -> str:
    where = _find_user_line(error.__traceback__)
    return f"{explain_failure(error)}{f' (at {where})' if where else ''}"


def _find_user_line(trace: TracebackType | None) -> str | None:
    """Return file:line of the innermost frame outside the standard library and site-packages."""
    paths = sysconfig.get_paths()
    foreign = tuple(paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    here = str(Path(__file__).resolve().parents[1]) + os.sep
    own = [
        frame
        for frame in traceback.extract_tb(trace)
        if not frame.filename.startswith((*foreign, here, "<"))
    ]
    return f"{own[-1].filename}:{own[-1].lineno}" if own else None


class Callable(Source):
    """Functions without arguments that return a model; they can change without a trace."""

    def recognise(self, text: str) -> ModelSpec | None:
        target, at, _ = text.partition("@")
        module, colon, attribute = target.partition(":")
        if not colon:
            return None
        if not all(part.isidentifier() for part in [*module.split("."), *attribute.split(".")]):
            hint = suggest_source(text)
            if module.endswith(".py"):
                dotted = module.removesuffix(".py").replace("/", ".")
                hint = f"; did you mean '{dotted}:{attribute}'?"
            raise SpecError(f"not of the form package.module:callable{hint or '; ' + FORMS}")
        if at:
            raise SpecError("a callable has no revisions; leave '@...' out")
        return ModelSpec(text, "callable", target)

    def check(self, spec: ModelSpec, *, allow_pickle: bool = False) -> Found | None:
        check_callable(spec.target)
        return None

    def open(self, spec: ModelSpec, how: Opening) -> LoadedParts:
        return LoadedParts(*call(spec.target))


SOURCE = Callable()
