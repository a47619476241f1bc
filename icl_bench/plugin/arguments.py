"""What pytest's command line asks for: options, suites, ids; mistakes are found here."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from icl_bench.comparing.parts import MARK, Part
from icl_bench.errors import SettingsError, SuiteError, nearest
from icl_bench.models.sources.spec import ModelSpec
from icl_bench.naming import may_be_called
from icl_bench.suite import Suite, find_suite, is_suite, load_suite, shipped_suites
from icl_bench.suite.catalog import resolve_suite

DEFAULT_SUITE = "core"
_UNESCAPED = "disable_test_id_escaping_and_forfeit_all_rights_to_community_support"
"""Setting of pytest's that leaves letters in ids as they are."""


def choose_suites(config: pytest.Config, with_paths: bool) -> list[Suite]:
    """Load the suites of a run, and make pytest collect these.

    Args:
        config: pytest's; its `args` are changed.
        with_paths: whether the user named paths: then exactly these are collected, and what
            `--icl-suite` names; without, nothing but suites is.

    Raises:
        InputError: a suite or a path is not there, or a suite is wrong.
    """
    named = [find_suite(name) for name in config.getoption("icl_suite") or []]
    if not with_paths:
        suites = _without_repeats(named or [find_suite(DEFAULT_SUITE)])
        config.args[:] = [str(suite.path) for suite in suites]
        return suites
    _point_to_shipped(config)
    _check_paths(config)
    found = [load_suite(path) for path in _suites_under(config)]
    # pytest collects what is named by path; what is named by option joins it.
    extra = _without_repeats(named, found)
    config.args.extend(str(suite.path) for suite in extra)
    return found + extra


def only_tells(config: pytest.Config) -> bool:
    """Whether pytest will run nothing, but list what there is.

    Args:
        config: pytest's.
    """
    listing = ("collectonly", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow")
    asked = ("help", "version", "setupplan", *listing)
    return any(config.getoption(option, False) for option in asked)


def settle_ids(config: pytest.Config, models: Mapping[str, ModelSpec]) -> None:
    """Let ids on the command line, PATH::CHECK[NAME], name models as another run may call them.

    Beside other models, or with another report folder, a model may have another name. In ids of
    Python tests pytest escapes letters other than Latin.

    Args:
        config: pytest's; its `args` are changed.
        models: name -> model of this run.
    """
    for place, argument in enumerate(map(str, config.args)):
        file, colons, item = argument.partition("::")
        start, bracket, name = item.partition("[")
        if not colons or not bracket:
            continue
        if not _is_yaml(Path(file)):
            if any(known in name for known in models) and not config.getini(_UNESCAPED):
                escaped = name.encode("unicode_escape").decode("ascii")
                config.args[place] = f"{file}::{start}[{escaped}"
            continue
        name = name.removesuffix("]")
        meant = [known for known, spec in models.items() if may_be_called(name, spec)]
        if name not in models and len(meant) == 1:
            config.args[place] = f"{file}::{start}[{meant[0]}]"


def add_comparisons(config: pytest.Config, parts: Sequence[Part]) -> None:
    """Let the id of a check stand for its comparison with the baseline too.

    Args:
        config: pytest's; its `args` and what `--deselect` names are changed.
        parts: of the comparison; none without a baseline.
    """
    checks = {part.name for part in parts if part.kind == "check"}

    def with_comparison(argument: object) -> list[str]:
        file, colons, item = str(argument).partition("::")
        name, bracket, slug = item.partition("[")
        if not colons or name not in checks:
            return [str(argument)]
        return [str(argument), f"{file}::{name}{MARK}{bracket}{slug}"]

    for given in (config.args, config.option.deselect or []):
        given[:] = dict.fromkeys(one for argument in given for one in with_comparison(argument))


def check_ids(
    config: pytest.Config,
    suites: Sequence[Suite],
    known: Sequence[str],
    parts: Sequence[Part] = (),
) -> None:
    """Refuse ids on the command line, PATH::CHECK[SLUG], that name no item of the run.

    Under xdist pytest would find nothing and say nothing.

    Args:
        config: pytest's.
        suites: the suites of the run.
        known: slugs of its models.
        parts: of the comparison with a baseline; none without one.

    Raises:
        SettingsError: a suite has no such check, or the run no such model.
    """
    by_path = {suite.path.resolve(): suite for suite in suites}
    for argument in config.args:
        file, colons, name = str(argument).partition("::")
        suite = by_path.get((config.invocation_params.dir / file).resolve())
        if suite is None or not colons:
            continue
        wanted, bracket, slug = name.partition("[")
        checks = [spec.id for spec in suite.assertions] or list(suite.measure)
        labels = [part.label for part in parts if part.suite == suite.name]
        if wanted.endswith(MARK) and not labels:
            raise SettingsError(f"{argument}: needs --icl-baseline=FILE")
        if wanted not in (*checks, *labels):
            hint = nearest(wanted, labels if wanted.endswith(MARK) else checks)
            raise SettingsError(f"{file}: suite {suite.name!r} has no check {wanted!r}; {hint}")
        if bracket and slug.removesuffix("]") not in known:
            hint = nearest(slug, known) if known else "give it with --icl-model=SPEC"
            raise SettingsError(f"{argument}: that model is not part of this run; {hint}")


def _without_repeats(suites: list[Suite], known: Sequence[Suite] = ()) -> list[Suite]:
    """Leave out what is the same file as another, whatever path leads to it."""
    seen = {suite.path.resolve() for suite in known}
    kept = []
    for suite in suites:
        if suite.path.resolve() not in seen:
            seen.add(suite.path.resolve())
            kept.append(suite)
    return kept


def _point_to_shipped(config: pytest.Config) -> None:
    """Turn ids of shipped suites, `suites/NAME.yaml::...`, into paths, where no such file is."""
    ids = {f"suites/{path.name}": path for path in shipped_suites().values()}
    for place, argument in enumerate(config.args):
        file, colons, rest = str(argument).partition("::")
        if file in ids and not (config.invocation_params.dir / file).exists():
            config.args[place] = f"{ids[file]}{colons}{rest}"


def _check_paths(config: pytest.Config) -> None:
    """Refuse paths that are not there: under xdist pytest would find nothing and say nothing."""
    if config.getoption("pyargs"):
        return
    for argument in config.args:
        path = str(argument).split("::")[0]
        if not (config.invocation_params.dir / path).exists():
            raise SettingsError(f"file or directory not found: {path}{_hint(path)}")


def _hint(path: str) -> str:
    """What may have been meant by a path that is not there, where that is a suite."""
    if Path(path).suffix not in (".yaml", ".yml", ""):
        return ""
    try:
        resolve_suite(path)
        return f"; --icl-suite={path} runs the shipped suite"
    except SuiteError as error:
        _, comma, hint = str(error).rpartition("; did you mean ")
        # A folder of tests may have any name: only one that is nearly a suite's is meant as one.
        close = difflib.SequenceMatcher(None, path, hint.strip("'?")).ratio() > 0.7
        return comma + hint if close else ""


def _suites_under(config: pytest.Config) -> list[Path]:
    """Suites among the paths on the command line, those in folders included."""
    found: dict[Path, None] = {}
    for argument in config.args:
        path = config.invocation_params.dir / str(argument).split("::")[0]
        for file in _walk(path, config, set()) if path.is_dir() else [path]:
            if _is_yaml(file) and is_suite(file):
                found[file.resolve()] = None
    return list(found)


def _is_yaml(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml")


def _walk(folder: Path, config: pytest.Config, above: set[Path]) -> Iterator[Path]:
    """YAML files below a folder that pytest would look at too."""
    above = above | {folder.resolve()}
    try:
        below = sorted(folder.iterdir())
    except OSError:
        return
    for path in below:
        if not path.is_dir() and not _is_yaml(path):
            continue
        if config.hook.pytest_ignore_collect(collection_path=path, config=config):
            continue
        if not path.is_dir():
            yield path
        elif path.resolve() not in above:  # a link that leads back up has no end
            yield from _walk(path, config, above)
