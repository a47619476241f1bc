"""What pytest's command line asks for, checked as a whole before anything is measured."""

from __future__ import annotations

import pytest

from icl_bench.errors import InputError, SettingsError
from icl_bench.models.sources.checking import check_spec
from icl_bench.models.sources.parsing import parse_spec
from icl_bench.naming import name_models
from icl_bench.plugin import arguments
from icl_bench.plugin.ids import NAMES
from icl_bench.plugin.session import FILES, Found, IclSession
from icl_bench.render.writing.logs import defuse
from icl_bench.reports.added import added_reports
from icl_bench.reports.places import check_file, check_report_dir
from icl_bench.running.baseline import read_baseline
from icl_bench.running.cache import open_cache
from icl_bench.suite.plan import Plan, make_plan


def open_session(config: pytest.Config) -> IclSession:
    """Check everything the user gave and return the run's state.

    Raises:
        pytest.UsageError: a mistake of the user's; pytest then exits with code 4.
    """
    try:
        return _open(config)
    except InputError as error:
        raise pytest.UsageError(defuse(str(error))) from None


def _open(config: pytest.Config) -> IclSession:
    options = arguments.read_options(config)
    specs = [parse_spec(text) for text in dict.fromkeys(config.getoption("icl_model") or [])]
    with_paths = config.args_source is pytest.Config.ArgsSource.ARGS
    suites = arguments.choose_suites(config, with_paths)
    plan = make_plan(suites, seed=options.seed) if suites else Plan([])
    # A worker calls models as the controller does, whatever has been written since.
    folder = config.invocation_params.dir / config.getoption("icl_report_dir")
    names = getattr(config, "workerinput", {}).get(NAMES) or name_models(specs, folder)
    by_slug = dict(zip(names, specs))
    arguments.settle_ids(config, by_slug)
    arguments.check_ids(config, suites, list(by_slug))
    found: dict[str, Found] = {}
    tells = arguments.only_tells(config)
    baseline = None
    if not hasattr(config, "workerinput"):
        # The controller has checked what the workers are about to open.
        for slug, spec in by_slug.items():
            found[slug] = check_spec(spec, allow_pickle=options.allow_pickle)
        if specs and not tells:
            added_reports()
            check_report_dir(
                config.getoption("icl_report_dir"), "--icl-report-dir", config.invocation_params.dir
            )
        baseline = read_baseline(
            config.getoption("icl_baseline"),
            config.getoption("icl_save_baseline"),
            config.getoption("icl_limit") or [],
            suites=suites,
            models=len(by_slug),
            strict=config.getoption("icl_inconclusive") == "fail",
            folder=config.invocation_params.dir,
        )
        for option in FILES:
            if file := config.getoption(option):
                name = "--" + option.replace("_", "-")
                if not specs:
                    raise SettingsError(f"{name} needs a model: --icl-model=SPEC")
                check_file(file, name, config.invocation_params.dir)
        if not specs and not tells:
            named = ", ".join(repr(suite.name) for suite in suites) or "what is asked for"
            raise SettingsError(
                f"no model is given for {named}: --icl-model=SPEC (builtin:induction-2l is one "
                "that needs no network)"
            )
        if tells:
            baseline = None
    cache = open_cache(options)
    if cache and specs and not tells:
        cache.begin()
        config.add_cleanup(cache.end)
    session = IclSession(
        config,
        plan,
        by_slug,
        options,
        only_suites=not with_paths,
        found=found,
        cache=cache,
    )
    session.baseline, session.names = baseline, names
    return session
